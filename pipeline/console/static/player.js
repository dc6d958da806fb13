// The one player of the page, of a channel or of a recording.

import { el, say, show } from './dom.js';
import { forms, path, span } from './format.js';

const section = document.getElementById('player');
const video = document.getElementById('video');
const title = document.getElementById('player-title');
const state = document.getElementById('player-state');
let playing = null; // { path, live, from: the button }

// button returns what plays a name in its first app that has MP4, or only the name.
export function button(apps, name, live) {
  const app = apps.find((a) => a.forms.includes('mp4'));
  if (!app) return el('span', {}, name);
  return el('button', {
    type: 'button', class: 'play', 'aria-pressed': 'false', 'data-path': path(app.name, name),
    click: (event) => play(event.currentTarget, app.name + '/' + name, live),
  }, name);
}

// links returns the links to all forms of a name.
export function links(apps, name) {
  return apps.flatMap((app) => app.forms.filter((form) => forms[form]).map((form) => {
    const [text, suffix] = forms[form];
    return el('a', { href: path(app.name, name) + suffix, target: '_blank', rel: 'noopener' }, apps.length > 1 ? app.name + ' ' + text : text);
  }));
}

function play(from, name, live) {
  close();
  playing = { path: from.dataset.path, live, from };
  from.setAttribute('aria-pressed', 'true');
  say(title, name + (live ? ' (live)' : ''));
  say(state, 'Loading…');
  show(section, true);
  load(playing, name);
  section.scrollIntoView({ block: 'nearest' });
  video.focus({ preventScroll: true });
}

// load begins to play with a ticket: the media may be kept from those who have none.
async function load(what, name) {
  const answer = await fetch('/api/ticket?name=' + encodeURIComponent(name)).then((r) => r.json()).catch(() => ({}));
  if (playing !== what) return; // another was chosen meanwhile
  video.src = what.path + '.mp4' + (answer.token ? '?token=' + encodeURIComponent(answer.token) : '');
  video.play().catch(() => {}); // the reader may have to press play
}

// close ends the request too.
function close() {
  if (!playing) return;
  video.pause();
  video.removeAttribute('src');
  video.load();
  playing.from.setAttribute('aria-pressed', 'false');
  playing = null;
  show(section, false);
}

// tell says how it plays.
export function tell() {
  if (!playing) return;
  if (video.error) {
    say(state, playing.live
      ? 'The channel has ended, or the browser does not know its codecs.'
      : 'It cannot be played: it has gone, or the browser does not know its codecs.');
    return;
  }
  const { totalVideoFrames: frames, droppedVideoFrames: dropped } = video.getVideoPlaybackQuality();
  const of = Number.isFinite(video.duration) && !playing.live ? ' of ' + span(video.duration) : '';
  const what = video.ended ? 'Ended' : video.paused ? 'Paused' : video.readyState < 3 ? 'Waiting for media' : 'Playing';
  say(state, `${what}, ${span(video.currentTime)}${of}, ${video.videoWidth}×${video.videoHeight}, ${frames} frames decoded, ${dropped} dropped`);
}

document.getElementById('player-close').addEventListener('click', () => {
  const from = playing?.from;
  close();
  from?.focus();
});
section.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !document.fullscreenElement) document.getElementById('player-close').click();
});
