// Numbers and times for people, and the colours of states.

const scaled = (n, names) => {
  let i = 0;
  while (n >= 999.5 && i < names.length - 1) {
    n /= 1000;
    i++;
  }
  return (n >= 100 || i === 0 ? n.toFixed(0) : n.toFixed(1)) + ' ' + names[i];
};

export const bytes = (n) => scaled(n, ['B', 'kB', 'MB', 'GB', 'TB']);
export const bits = (n) => scaled(n, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s']);
export const percent = (part) => (100 * part).toFixed(0) + ' %';

// amount writes a figure or a rate of a snapshot.
export function amount({ value, unit }) {
  switch (unit) {
    case 'B': return bytes(value);
    case 'B/s': return bits(8 * value);
    case '%': return value.toFixed(1) + ' %';
    case 's': return value.toFixed(1) + ' s';
  }
  const digits = value > 0 && value < 10 && !Number.isInteger(value) ? 1 : 0;
  return (value.toFixed(digits) + ' ' + unit).trim();
}

// span writes seconds as the two largest of days, hours, minutes and seconds.
export function span(seconds) {
  seconds = Math.max(0, Math.floor(seconds));
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return '0 s';
  return parts.slice(first, first + 2).map(([size, name]) => {
    const n = Math.floor(seconds / size);
    seconds -= n * size;
    return n + ' ' + name;
  }).join(' ');
}

// since writes how long a time of the daemon is past, by the daemon's own clock.
export const since = (time, now) => (time.startsWith('0001') ? '' : span((Date.parse(now) - Date.parse(time)) / 1000));

// mood is the colour of a state.
export function mood(state) {
  switch (state) {
    case 'running': case 'alive': return 'good';
    case 'failed': case 'restarting': case 'dead': return 'bad';
  }
  return 'warn';
}

// path is where an app serves a name; each part is escaped by itself.
export const path = (app, name) => '/' + (app + '/' + name).split('/').map(encodeURIComponent).join('/');

// others are the links to the forms that the page does not play itself.
export const forms = { flv: ['FLV', '.flv'], hls: ['HLS', '/index.m3u8'], mp4: ['MP4', '.mp4'] };
