// The recordings, which are listed when the page opens and when the reader asks again.

import { rows, say, show } from './dom.js';
import { bytes } from './format.js';
import { button, links } from './player.js';

const maxShown = 200;
const section = document.getElementById('recordings');
const filter = document.getElementById('filter');
const empty = section.querySelector('.empty');
let shelves = [];

export async function refresh() {
  try {
    const answer = await fetch('/api/media');
    if (!answer.ok) throw new Error(`the daemon answers ${answer.status}`);
    shelves = await answer.json();
    render();
  } catch (error) {
    say(empty, `The recordings could not be listed: ${error.message}.`);
    show(empty, true);
  }
}

function render() {
  const wanted = filter.value.toLowerCase();
  const all = shelves.flatMap((shelf) => shelf.entries.map((entry) => ({ ...entry, shelf })));
  const found = all.filter((entry) => entry.name.toLowerCase().includes(wanted));
  const shown = found.slice(0, maxShown);
  rows(section.querySelector('table'), shown, (e) => JSON.stringify([e.shelf.app.name, e.shelf.stage, e.name]), [
    { node: (e) => button([e.shelf.app], e.name, false) },
    { value: (e) => bytes(e.size) },
    { value: (e) => new Date(e.modified).toLocaleString() },
    { value: (e) => e.shelf.stage },
    { node: (e) => links([e.shelf.app], e.name) },
  ]);
  say(document.getElementById('recordings-count'), shown.length < all.length ? `${shown.length} of ${all.length}` : '');
  const wrong = shelves.filter((shelf) => shelf.error).map((shelf) => `${shelf.stage}: ${shelf.error}.`);
  if (found.length === 0) wrong.push(all.length > 0 ? 'No name is like that.' : 'There are none that a reader could list.');
  say(empty, wrong.join(' '));
  show(empty, wrong.length > 0);
}

filter.addEventListener('input', render);
document.getElementById('refresh').addEventListener('click', refresh);
