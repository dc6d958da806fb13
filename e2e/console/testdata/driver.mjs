// A browser that is told what to do: each line of standard input is the body of an async
// function, in JSON, which has `page`, `context` and `seen`. Its result, or its error, is the answer.
import { chromium } from 'playwright-core';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const profile = mkdtempSync(join(tmpdir(), 'mediad-chromium-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  viewport: { width: 1280, height: 900 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const page = context.pages()[0] ?? await context.newPage();
page.setDefaultTimeout(60000);
// seen is what went wrong in the page, and which origins it asked.
const seen = { problems: [], origins: [] };
page.on('console', (m) => { if (m.type() === 'error' || m.type() === 'warning') seen.problems.push(m.text()); });
page.on('pageerror', (e) => seen.problems.push(String(e)));
page.on('request', (r) => {
  const { origin } = new URL(r.url());
  if (!seen.origins.includes(origin)) seen.origins.push(origin);
});
try {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
      const run = new (async () => {}).constructor('page', 'context', 'seen', JSON.parse(line));
      answer = { value: await run(page, context, seen) ?? null };
    } catch (error) {
      answer = { error: String(error.stack) };
    }
    console.log(JSON.stringify(answer));
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
