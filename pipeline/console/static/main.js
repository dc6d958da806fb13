// The page: a snapshot of the daemon each second, shown in sections.

import { el, keep, rows, say, show } from './dom.js';
import { amount, bits, mood, percent, since } from './format.js';
import { draw } from './graph.js';
import { button, links, tell } from './player.js';
import { refresh } from './recordings.js';

const $ = (id) => document.getElementById(id);
const table = (id) => $(id).querySelector('table');
const full = (stage) => stage.pipeline + '/' + stage.name;

// patience is how many milliseconds may pass without a snapshot.
const patience = 3500;

let heard = 0; // when the last one came
let away = true;

function connect() {
  const events = new EventSource('/api/events');
  events.onmessage = (event) => {
    heard = performance.now();
    if (away) {
      away = false;
      document.body.classList.remove('away');
      refresh();
    }
    render(JSON.parse(event.data));
  };
  events.onerror = () => {
    lost();
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 2000); // it was refused
  };
}

function lost() {
  if (!away || heard === 0) health('The daemon does not answer. What you see is from ' + (heard ? 'before.' : 'nowhere yet.'), 'bad');
  away = true;
  document.body.classList.add('away');
}

setInterval(() => {
  if (!away && performance.now() - heard > patience) lost();
  tell();
}, 500);

function health(text, mood) {
  say($('health'), text);
  $('health').className = mood;
}

function render(s) {
  say($('host'), s.host);
  const wrong = s.stages.filter((stage) => stage.state !== 'running');
  health(wrong.length === 0 ? `All ${s.stages.length} stages run`
    : wrong.map((stage) => `${full(stage)} is ${stage.state}`).join(', '), wrong.some((stage) => mood(stage.state) === 'bad') ? 'bad' : wrong.length ? 'warn' : 'good');
  say($('problem'), s.error ?? '');
  show($('problem'), Boolean(s.error));
  channels(s);
  stages(s);
  brokers(s);
  storage(s);
  nodes(s);
}

function channels(s) {
  const list = s.channels;
  rows(table('channels'), list, (c) => JSON.stringify([c.stage, c.node, c.name, c.since, c.apps]), [
    { node: (c) => button(c.apps, c.name, true) },
    { value: (c) => [c.video, c.audio].filter(Boolean).join(', ') },
    { value: (c) => (c.bitrate ? bits(c.bitrate) : '') },
    { value: (c) => (c.node ? '' : [String(c.readers), protocols(c.viewers ?? {})].filter(Boolean).join(': ')) },
    { value: from },
    { value: (c) => since(c.since, s.time) },
    { node: (c) => links(c.apps, c.name) },
  ]);
  show($('channels').querySelector('.empty'), list.length === 0);
  say($('more-channels'), `and ${s.more_channels} more`);
  show($('more-channels'), Boolean(s.more_channels));
  say($('viewers'), protocols(s.viewers));
}

// protocols writes how many watch by each.
const protocols = (by) => Object.entries(by).filter(([, n]) => n > 0).sort().map(([name, n]) => `${n} by ${name.toUpperCase()}`).join(', ');

function from(c) {
  if (c.node) return 'on air at ' + c.node;
  if (c.repeated) return c.path?.length > 1 ? 'repeated: ' + c.path.join(' → ') : 'repeated, no source now';
  return c.publishing ? 'published here' : 'the publisher is away';
}

function stages(s) {
  draw($('drawing'), s);
  rows(table('graph'), s.stages, full, [
    { value: full },
    { value: (st) => st.kind + (st.process ? ', own process' : '') },
    { value: (st) => st.state, class: (st) => 'state ' + mood(st.state) },
    { value: (st) => since(st.since, s.time) },
    { value: (st) => s.edges.filter((e) => e.to === full(st)).map((e) => e.from + (e.rate ? ` (${amount(e.rate)})` : '')).join(', ') },
    { value: (st) => st.error ?? '' },
  ]);
}

// section shows or hides one with its link.
function section(id, on) {
  show($(id), on);
  show(document.querySelector(`nav a[href="#${id}"]`), on);
}

function brokers(s) {
  section('brokers', s.brokers.length > 0);
  const list = s.brokers.flatMap((b) => b.decisions.slice(0, 20).map((d) => ({ ...d, stage: b.stage })))
    .sort((a, b) => Date.parse(b.time) - Date.parse(a.time)).slice(0, 20);
  const chosen = (d) => d.candidates?.find((c) => c.chosen);
  rows(table('brokers'), list, (d) => JSON.stringify([d.stage, d.time, d.name]), [
    { value: (d) => d.name },
    { value: (d) => chosen(d)?.source ?? d.error ?? 'nowhere', class: (d) => (chosen(d) ? '' : 'bad') },
    { value: (d) => (chosen(d) ? `${chosen(d).total.toFixed(1)} (${chosen(d).cost.place || 'unknown'}${chosen(d).cost.node ? ' at ' + chosen(d).cost.node : ''})` : '') },
    { value: (d) => (d.candidates ?? []).filter((c) => !c.chosen).map((c) => `${c.source}: ${c.note || c.total.toFixed(1)}`).join('; ') },
    { value: (d) => since(d.time, s.time) },
    { value: (d) => d.stage },
  ]);
  show($('brokers').querySelector('.empty'), list.length === 0);
}

function storage(s) {
  const list = s.stages.filter((stage) => stage.figures?.length > 0);
  section('storage', list.length > 0);
  keep($('storage').querySelector('.cards'), list, full,
    (stage) => el('div', { class: 'card' }, el('h3', {}, full(stage)), el('dl')),
    (card, stage) => keep(card.querySelector('dl'), stage.figures.flatMap((f) => [['dt', f], ['dd', f]]), ([tag, f]) => tag + f.name,
      ([tag]) => el(tag), (node, [tag, f]) => say(node, tag === 'dt' ? f.name : amount(f))));
}

function nodes(s) {
  section('nodes', s.nodes.length > 0);
  rows(table('nodes'), s.nodes, (n) => n.name, [
    { value: (n) => n.name + (n.self ? ' (this one)' : '') },
    { value: (n) => n.state, class: (n) => 'state ' + mood(n.state) },
    { value: (n) => percent(n.load.cpu) },
    { value: (n) => percent(n.load.network) },
    { value: (n) => percent(n.load.disk) },
    { value: (n) => String(n.owns) },
    { value: (n) => String(n.repeats) },
    { value: (n) => (n.rtt_ms === undefined ? '' : n.rtt_ms.toFixed(2) + ' ms') },
    { value: (n) => [['RTMP', n.rtmp], ['HTTP', n.http], ['repeater', n.repeater]].filter(([, a]) => a).map((a) => a.join(' ')).join(', ') },
  ]);
}

connect();
