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
