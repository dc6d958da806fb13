"""FLV files as batches of frames, after annex E of Adobe's specification 10.1. What came
later, Enhanced FLV with HEVC, AV1 and others, is left out."""

import os

import stage_pb2 as pb

AUDIO, VIDEO, DATA = 8, 9, 18
CODECS = {VIDEO: {2: "flv1", 4: "vp6f", 7: "h264"}, AUDIO: {2: "mp3", 10: "aac", 11: "speex"}}
ON_META_DATA = b"\x02\x00\x0aonMetaData"  # a string in AMF0
MS = 1_000_000  # in nanoseconds

# Bounds of a batch; see core/media.
MAX_BYTES = 2 << 20
MAX_AUDIO_SPAN = 1000 * MS


class Wrong(Exception):
    """A file that cannot be played."""


class Film:
    """An open file. Its join points are found by reading it through once; a reader for
    many viewers would keep them."""

    def __init__(self, path):
        self.file = open(path, "rb")
        try:
            state = os.fstat(self.file.fileno())
            self.size = state.st_size
            self.version = f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"
            self.read_index()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read_index(self):
        head = self.file.read(9)
        if head[:3] != b"FLV" or len(head) < 9:
            raise Wrong(f"it begins with {head!r} and is no FLV")
        self.first = int.from_bytes(head[5:9], "big") + 4, pb.Header()
        keys, sounds, times = [], [], []  # of the first two: time, place of the tag, header
        for at, header, frame, _ in self.frames(*self.first):
            times.append(frame.dts)
            if frame.key:
                keys.append((frame.dts, at, header))
            elif not sounds or frame.dts - sounds[-1][0] >= MAX_AUDIO_SPAN:
                sounds.append((frame.dts, at, header))
        if not times:
            raise Wrong("it has no frames")
        self.joins = keys or sounds
        self.sound_only = not keys
        self.start, self.duration = times[0], max(times) - times[0]

    def frames(self, at, header):
        """Yields (place of the tag, header in force, frame, body) from a tag on, to the end
        or to where the file is cut short."""
        self.file.seek(at)
        while len(tag := self.file.read(11)) == 11:
            body = self.file.read(size := int.from_bytes(tag[1:4], "big"))
            if len(body) < size:
                return
            ms = tag[7] << 24 | int.from_bytes(tag[4:7], "big")
            header, frame = packet(tag[0] & 0x1F, ms * MS, body, header)
            if frame:
                yield at, header, frame, body
            self.file.seek(4, os.SEEK_CUR)  # the tag's size once more
            at += 11 + size + 4

    def batches(self, start):
        """Yields the batches from the last join point at or before start, or else from the
        first frame. A batch ends before a keyframe, and before it grows too large."""
        at, header = ([self.first] + [join[1:] for join in self.joins if join[0] <= start])[-1]
        frames, bodies, size, sent = [], [], 0, None
        for _, now, frame, body in self.frames(at, header):
            if frames and (
                frame.key or now is not header or size >= MAX_BYTES
                or self.sound_only and frame.dts - frames[0].dts >= MAX_AUDIO_SPAN
            ):
                yield pb.Batch(header=None if header is sent else header, frames=frames, bodies=b"".join(bodies))
                frames, bodies, size, sent = [], [], 0, header
            frames.append(frame)
            bodies.append(body)
            header, size = now, size + len(body)
        if frames:
            yield pb.Batch(header=None if header is sent else header, frames=frames, bodies=b"".join(bodies))


def packet(track, dts, body, header):
    """Returns the header in force after a packet, and its frame. Codec configuration and
    onMetaData are no frames: they make another header."""
    if not body or track not in (AUDIO, VIDEO, DATA):
        return header, None
    if track == DATA and body.startswith(ON_META_DATA):
        return pb.Header(meta=body, video=header.video, audio=header.audio), None
    frame = pb.Frame(track=track, dts=dts, pts=dts, size=len(body))
    if track == DATA:
        return header, frame
    number = body[0] & 0x0F if track == VIDEO else body[0] >> 4
    codec = CODECS[track].get(number)
    if codec is None:
        raise Wrong(f"track {track} has the codec {number}, which is not read here")
    frame.key = track == VIDEO and body[0] >> 4 == 1
    kind, config = body[1:2], b""
    if codec in ("h264", "aac") and kind == b"\x00":
        config, frame = body, None
    elif codec == "h264" and kind == b"\x01":
        frame.pts += int.from_bytes(body[2:5], "big", signed=True) * MS
    elif codec == "h264":
        frame.key = False  # the end of a sequence
    return with_format(header, "video" if track == VIDEO else "audio", codec, config), frame


def with_format(header, track, codec, config):
    """Returns header, or one with another format where that is another."""
    old = getattr(header, track)
    if old.codec == codec and config in (b"", old.config):
        return header
    new = pb.Header()
    new.CopyFrom(header)
    getattr(new, track).MergeFrom(pb.Format(codec=codec, config=config))
    return new
