// The torture list: what is done to the daemon, and what it must do.

package main

// A number of the list.
type torment struct{ does, expects string }

// always holds after every one of them.
const always = "the daemon lives; other channels and connections lose no frame; goroutines, descriptors and memory return to where they were; one log line and one counter per cause"

var list = map[int]torment{
	1:  {"silent handshake, or one byte a second", "closed at 10 s"},
	2:  {"HTTP or TLS on the RTMP port", "closed at once"},
	3:  {"random C2", "accepted"},
	4:  {"message announced over the limit", "closed before anything is allocated"},
	5:  {"33rd chunk stream", "closed"},
	6:  {"many half messages", "a byte cap per connection"},
	7:  {"a header that changes the length in the middle of a message", "the old message is dropped"},
	8:  {"zero-length message", "ignored"},
	9:  {"type 3 with extended timestamp, with and without its repetition", "frames intact"},
	10: {"abort message", "the partial one is dropped"},
	11: {"SetChunkSize 0, 2^31, 1", "refused, clamped, accepted"},
	12: {"AMF0 nesting", "refused"},
	13: {"AMF0 strict array of 2^31-1 in 28 bytes", "refused"},
	14: {"undefined, long string, AMF3, aggregate, unknown message and event types", "handled or skipped, never a reason to close"},
	15: {"createStream flood", "refused at the 5th"},
	16: {"unknown app, wrong key", "a status the client shows; back-off per address"},
	17: {"stream name ../, NUL, 4 KB, CRLF, <script>", "refused; escaped in logs, labels and pages"},
	18: {"descriptors exhausted", "accept backs off and recovers"},

	19: {"FLV through a reader of one byte at a time", "the same frames"},
	20: {"FLV cut at every byte", "whole tags, then a clean end"},
	21: {"wrong PreviousTagSize, DataOffset 4 GB", "resync or refuse"},
	22: {"MP4 box of size 0, 1, larger than the file, nested 10 000 deep", "refused, memory bounded"},
	23: {"stts or stsz count of 2^32", "refused before allocating"},
	24: {"moov last, missing, twice", "plays, refused, refused"},
	25: {"symbolic link out of the root, .., absolute names", "refused"},
	26: {"the file shrinks, or is replaced, while it is served", "a clean end; never two versions mixed"},

	27: {"an origin without ranges", "read once in sequence, or refused by size"},
	28: {"200 to a range request", "no wrong offset"},
	29: {"ETag changes", "drop what is cached, start again; never mix"},
	30: {"cut short, wrong Content-Length", "an error, not cached"},
	31: {"one byte a second, stalled headers", "deadline, next source"},
	32: {"redirect loop, or to a link-local or loopback address or file", "stopped at 5, refused"},
	33: {"5xx, reset", "back-off with jitter"},
	34: {"100 viewers miss at once", "one fetch"},

	35: {"plugin crashes at start", "the rest runs; back-off; breaker at 5 in 60 s"},
	36: {"plugin crashes in the middle", "restarted; viewers keep their connection, nothing missing or twice"},
	37: {"plugin hangs", "deadline, the process group is killed"},
	38: {"garbage on stdout, not a plugin", "an error that names the file"},
	39: {"wrong protocol version", "refused, both versions named"},
	40: {"memory hog", "only that plugin dies"},
	41: {"slow plugin", "its own queue drops by policy"},
	42: {"daemon killed with -9", "no plugin lives 2 s later"},

	43: {"viewer stops reading", "skips to a keyframe, ended at the deadline"},
	44: {"dead TCP", "write deadline"},
	45: {"1000 join at once", "one source, from memory"},
	46: {"plays before the publisher", "waits, then StreamNotFound"},

	47: {"timestamps jump forward or back", "re-based; the archive is monotonic"},
	48: {"wrap at 2^32 ms, pass 0xFFFFFF", "continuous"},
	49: {"no codec configuration", "held, nothing undecodable goes out"},
	50: {"codec changes", "new configuration to all, a new archive file"},
	51: {"audio only, video only", "starts without waiting for the other"},
	52: {"publisher back within 5 s", "same channel, viewers kept"},
	53: {"two publishers of one name", "one owner by policy, the loser told"},
	54: {"a keyframe of 8 MB, and one over the limit", "passes, refused"},

	55: {"disk full", "archiving stops with an alarm, live goes on, resumes when there is room"},
	56: {"EIO, an fsync of seconds", "bounded queue, the gap recorded"},
	57: {"kill -9 at 100 random points", "all but the last second plays; repaired at start"},
	58: {"rotation under load, clock steps, daylight saving", "no frame lost, nothing overwritten"},

	59: {"owner killed with -9", "gone in at most 2.1 s, a standby publisher takes over in at most 9 s"},
	60: {"SIGSTOP and SIGCONT", "the old owner steps down within 1 s"},
	61: {"owner partitioned", "both sides serve; one owner after healing"},
	62: {"control plane gone for minutes", "no viewer drops; everything registered again"},
	63: {"slow link", "the repeater skips to a keyframe, nobody else is touched"},
	64: {"parent loop", "refused"},
	65: {"middle relay dies", "its children have another parent in under 2 s"},

	66: {"typo, unknown key", "file, line, column, nearest name"},
	67: {"wrong type, doubled name, cycle, missing plugin", "all in one run; exit 2"},
	68: {"YAML alias bomb, 10 MB file", "refused"},
	69: {"wrong file at reload", "the old one stays, the error is returned"},
	70: {"right file at reload", "untouched streams lose no frame"},
	71: {"SIGTERM", "stop accepting, close archives, drain to the limit; a second signal ends now"},
	72: {"HTTP API", "loopback by default or a token; other Origins refused"},
}
