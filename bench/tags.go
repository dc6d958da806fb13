// Just enough HTTP-FLV for the load client: the tags in the chunks of a response are
// walked through as they come.

package main

import (
	"bytes"
	"strconv"
)

// Sizes of FLV (10.1, E.2 to E.4.1).
const (
	fileHead = 9 + 4 // with the first PreviousTagSize
	tagHead  = 11
	tagTail  = 4
)

// A tagWalker takes apart the bytes of one connection. The zero value is at its beginning.
type tagWalker struct {
	message func(*chunkStream)

	begun bool   // the head of the response has passed
	line  []byte // of HTTP, under way
	chunk int    // bytes left of the chunk under way

	opened bool // the head of the file has passed
	head   []byte
	skip   int // bytes to pass over
	body   int // bytes left of the body of the tag under way
	tag    chunkStream
}

// walk takes p and calls w.message at the end of each tag.
func (w *tagWalker) walk(p []byte) {
	for len(p) > 0 {
		if w.chunk == 0 {
			w.line = append(w.line, p[0])
			p = p[1:]
			w.http()
			continue
		}
		n := min(w.chunk, len(p))
		w.tags(p[:n])
		w.chunk -= n
		p = p[n:]
	}
}

// http takes the head of the response, or what stands between two chunks: the end of one and the size of the next.
func (w *tagWalker) http() {
	switch {
	case !w.begun:
		w.begun = bytes.HasSuffix(w.line, []byte("\r\n\r\n"))
		if !w.begun {
			return
		}
	case len(w.line) < 3 || w.line[len(w.line)-1] != '\n':
		if string(w.line) != "\r\n" {
			return
		}
	default:
		n, _ := strconv.ParseInt(string(bytes.TrimSpace(w.line)), 16, 32) // it is ours
		w.chunk = int(n)
	}
	w.line = w.line[:0]
}

// tags takes the bytes of the file.
func (w *tagWalker) tags(p []byte) {
	for len(p) > 0 {
		switch {
		case w.skip > 0:
			n := min(w.skip, len(p))
			w.skip -= n
			p = p[n:]
		case w.body > 0:
			n := min(w.body, len(p))
			if w.tag.got < head {
				copy(w.tag.head[w.tag.got:], p[:n])
			}
			w.tag.got += n
			w.body -= n
			p = p[n:]
			if w.body == 0 {
				w.message(&w.tag)
				w.skip = tagTail
			}
		case !w.opened:
			w.opened, w.skip = true, fileHead
		default:
			w.head = append(w.head, p[0])
			p = p[1:]
			if h := w.head; len(h) == tagHead {
				w.body = int(h[1])<<16 | int(h[2])<<8 | int(h[3])
				w.tag = chunkStream{kind: h[0], length: w.body}
				w.head = h[:0]
			}
		}
	}
}
