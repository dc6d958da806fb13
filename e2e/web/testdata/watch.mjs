// Opens a page with a player in Chromium and prints its states, one a line as JSON, until it
// has played for some seconds: watch.mjs PAGE SECONDS [SEEK], SEEK being where to go in the middle.
import { chromium } from 'playwright-core';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [page_, seconds, seek] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'mediad-chromium-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  ignoreHTTPSErrors: true, // the media's certificate is the test's own
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await context.newPage();
  page.on('console', (m) => console.error(m.text()));
  await page.goto(page_);
  let end = Date.now() + 60_000; // to begin
  let playing = false;
  let sought = seek === undefined;
  while (Date.now() < end) {
    await page.waitForTimeout(100);
    const state = await page.evaluate(() => window.state());
    if (!playing && state.time > 0) {
      playing = true;
      end = Date.now() + seconds * 1000;
    }
    console.log(JSON.stringify(state));
    if (playing && !sought && end - Date.now() < seconds * 500) {
      sought = true;
      await page.evaluate((to) => window.seek(to), Number(seek));
    }
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
