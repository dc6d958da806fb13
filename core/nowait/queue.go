// Package nowait writes to sockets without waiting for them, which the net package cannot, as its
// Write returns when all is written, and reads from them at the least cost. Elsewhere than on
// Linux there are no such sockets, and the net package reads.
package nowait

// After is what is left of queue after its first n bytes, and how many of these are of
// the first piece that is left.
func After(queue [][]byte, n int) (rest [][]byte, first int) {
	for len(queue) > 0 && n >= len(queue[0]) {
		n -= len(queue[0])
		queue = queue[1:]
	}
	return queue, n
}
