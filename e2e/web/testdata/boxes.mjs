// Reads the segments of a media playlist with mp4box.js, and prints the tracks and what is wrong.
import HLS from 'hls-parser';
import { createFile, Log } from 'mp4box';

const url = process.argv[2];
const problems = [];
for (const level of ['warn', 'error']) Log[level] = (...words) => problems.push(`mp4box: ${words.join(' ')}`);

const get = async (uri) => {
  const response = await fetch(new URL(uri, url));
  if (!response.ok) throw new Error(`${uri}: ${response.status}`);
  return response;
};
const file = createFile();
file.onError = (...words) => problems.push(`mp4box: ${words.join(' ')}`);
let end = 0;
const append = async (uri, first) => {
  const bytes = await (await get(uri)).arrayBuffer();
  bytes.fileStart = end;
  end += bytes.byteLength;
  const before = file.boxes.length;
  file.appendBuffer(bytes);
  file.flush();
  const kinds = file.boxes.slice(before).map((box) => box.type).join(' ');
  if (!first.test(kinds)) problems.push(`${uri} has the boxes ${kinds}`);
  const size = file.boxes.reduce((sum, box) => sum + box.size, 0);
  if (size !== end) problems.push(`${uri}: the boxes have ${size} bytes of ${end}`);
};

const list = HLS.parse(await (await get(url)).text());
const segments = list.segments.filter((s) => s.uri && s.duration && !s.gap);
await append(segments[0].map.uri, /^ftyp moov$/);
const tracks = file.getInfo().tracks;
const seen = tracks.map(() => 0);
for (const segment of segments) {
  await append(segment.uri, /^(styp )?(sidx )?(prft )?(moof mdat ?)+$/);
  tracks.forEach((track, i) => {
    const samples = file.getTrackSamplesInfo(track.id).slice(seen[i]);
    seen[i] += samples.length;
    if (samples.length === 0) {
      problems.push(`${segment.uri} has nothing of track ${track.id}`);
      return;
    }
    if (track.video && !samples[0].is_sync) problems.push(`${segment.uri} does not begin with a keyframe`);
    const last = samples.at(-1);
    const span = (last.dts + last.duration - samples[0].dts) / track.timescale;
    const over = list.endlist && segment === segments.at(-1); // there one track is shorter
    if (!over && Math.abs(span - segment.duration) > 0.1) problems.push(`${segment.uri} says ${segment.duration} s and has ${span} s of track ${track.id}`);
  });
}
// Each fragment begins where the one before it ends: mp4box.js itself looks at the first alone.
const ends = {};
for (const { tfhd, tfdt, truns } of file.moofs.flatMap((moof) => moof.trafs)) {
  const id = tfhd.track_id;
  const off = (tfdt.baseMediaDecodeTime - (ends[id] ?? tfdt.baseMediaDecodeTime)) / tracks.find((t) => t.id === id).timescale;
  if (Math.abs(off) > 0.0015) problems.push(`a fragment of track ${id} comes ${off} s after the end of the one before`);
  ends[id] = tfdt.baseMediaDecodeTime + truns.flatMap((trun) => trun.sample_duration).reduce((sum, d) => sum + d, 0);
}
console.log(JSON.stringify({ codecs: tracks.map((t) => t.codec), samples: seen, problems: problems.slice(0, 10) }));
