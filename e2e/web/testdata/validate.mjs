// Parses the playlist on standard input, and fails where it is against the specification.
import HLS from 'hls-parser';
import { readFileSync } from 'node:fs';

HLS.setOptions({ strictMode: true });
const list = HLS.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify({
  master: list.isMasterPlaylist,
  segments: list.segments?.length ?? 0,
  endlist: list.endlist ?? false,
  parts: (list.segments ?? []).reduce((n, s) => n + s.parts.length, 0),
  variants: (list.variants ?? []).map((v) => v.codecs),
}));
