// Command mediad is the media streaming daemon: what pipelines.yaml says, checked,
// drawn and run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// The exit codes.
const (
	exitFailed = 1 // failed while running
	exitWrong  = 2 // wrong file or flags
)

// failure is an error of what was asked for, not of how it was asked for.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-signals
		stop()
		<-signals // it shall end now
		os.Exit(exitFailed)
	}()
	os.Exit(exit(root().ExecuteContext(ctx)))
}

// exit prints the error and returns the exit code for it.
func exit(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.As(err, new(failure)) {
		return exitFailed
	}
	return exitWrong
}
