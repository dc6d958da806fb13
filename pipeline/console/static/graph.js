// The graph: each pipeline is a lane from left to right, a stage stands right of all it
// gets frames from. It is drawn anew when the file has changed; else states and rates are set.

import { say, svg } from './dom.js';
import { amount, mood } from './format.js';

const box = { width: 148, height: 52 };
const step = { x: 250, y: 92 };
const margin = { x: 8, y: 26 };

const full = (stage) => stage.pipeline + '/' + stage.name;

// layout returns the place of each stage by its full name, and the lanes.
function layout(stages, edges) {
  const into = new Map(stages.map((s) => [full(s), []]));
  for (const e of edges) into.get(e.to)?.push(e.from);
  const columns = new Map();
  const column = (name, above) => {
    if (columns.has(name)) return columns.get(name);
    if (above.includes(name)) return 0; // nodes that feed each other are a circle
    const c = Math.max(0, ...into.get(name).filter((from) => into.has(from) && !above.includes(from))
      .map((from) => 1 + column(from, [...above, name])));
    columns.set(name, c);
    return c;
  };
  const places = new Map();
  const lanes = [];
  let row = 0;
  for (const pipeline of new Set(stages.map((s) => s.pipeline))) {
    const taken = new Set();
    let depth = 1;
    for (const s of stages.filter((s) => s.pipeline === pipeline)) {
      const c = column(full(s), []);
      let r = 0;
      while (taken.has(c + ',' + r)) r++;
      taken.add(c + ',' + r);
      depth = Math.max(depth, r + 1);
      places.set(full(s), { x: margin.x + c * step.x, y: margin.y + (row + r) * step.y });
    }
    lanes.push({ pipeline, y: margin.y + row * step.y - 8 });
    row += depth;
  }
  return { places, lanes, rows: row, columns: 1 + Math.max(0, ...columns.values()) };
}

// curve returns the line of an edge, and where its rate stands.
function curve(from, to) {
  const [x1, y1] = [from.x + box.width, from.y + box.height / 2];
  const [x2, y2] = [to.x - 6, to.y + box.height / 2];
  const far = x2 - x1 > step.x - box.width; // past the boxes of a column, below them
  const sag = far && y1 === y2 ? box.height : 0;
  const bend = Math.max(50, Math.abs(x2 - x1) / 2);
  return {
    d: `M${x1} ${y1}C${x1 + bend} ${y1 + sag} ${x2 - bend} ${y2 + sag} ${x2} ${y2}`,
    x: (x1 + x2) / 2, y: (y1 + y2) / 2 + 0.75 * sag - 6,
  };
}

let drawn = '';
const boxes = new Map();
const lines = new Map();

// draw shows the graph of a snapshot in an element.
export function draw(parent, { stages, edges }) {
  const shape = JSON.stringify([stages.map((s) => [s.pipeline, s.name, s.kind]), edges.map((e) => [e.from, e.to, e.push])]);
  if (shape !== drawn) {
    drawn = shape;
    parent.replaceChildren(picture(stages, edges));
  }
  for (const s of stages) {
    const { group, what } = boxes.get(full(s));
    group.setAttribute('class', mood(s.state));
    say(what, s.state);
    say(group.querySelector('title'), s.error ?? '');
  }
  for (const e of edges) {
    const line = lines.get(e.from + '>' + e.to);
    if (!line) continue;
    say(line.rate, e.rate ? amount(e.rate) : '–');
    line.path.classList.toggle('flows', (e.rate?.value ?? 0) > 0);
  }
}

function picture(stages, edges) {
  boxes.clear();
  lines.clear();
  const { places, lanes, rows, columns } = layout(stages, edges);
  const width = 2 * margin.x + (columns - 1) * step.x + box.width;
  const height = margin.y + (rows - 1) * step.y + box.height + 8;
  const image = svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'The graph of the stages' });
  image.append(svg('defs', {}, svg('marker', { id: 'arrow', viewBox: '0 0 8 8', refX: 2, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: 'userSpaceOnUse', orient: 'auto' },
    svg('path', { class: 'arrow', d: 'M0 0L8 4L0 8z' }))));
  for (const lane of lanes) image.append(svg('text', { class: 'lane', x: margin.x, y: lane.y }, lane.pipeline));
  const labels = svg('g');
  for (const e of edges) {
    if (!places.has(e.from) || !places.has(e.to)) continue;
    const { d, x, y } = curve(places.get(e.from), places.get(e.to));
    const path = svg('path', { class: e.push ? 'edge push' : 'edge', d, 'marker-end': 'url(#arrow)' });
    const rate = svg('text', { class: 'rate', x, y });
    image.append(path);
    labels.append(rate);
    lines.set(e.from + '>' + e.to, { path, rate });
  }
  for (const s of stages) {
    const { x, y } = places.get(full(s));
    const what = svg('text', { class: 'what', x: x + 10, y: y + 40 });
    const group = svg('g', { 'data-stage': full(s) }, svg('title'), svg('rect', { class: 'box', x, y, width: box.width, height: box.height, rx: 6 }),
      svg('text', { class: 'name', x: x + 10, y: y + 21 }, s.name.length > 17 ? s.name.slice(0, 16) + '…' : s.name), what);
    image.append(group);
    boxes.set(full(s), { group, what });
  }
  image.append(labels);
  return image;
}
