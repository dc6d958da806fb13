// The states of a player, the events that move it, and the table of both.

package stream

import (
	"time"

	"github.com/mediad/mediad/core/media"
)

type state uint8

// Recorded media are ready, playing, paused, seeking and stopped; live media are
// waiting, playing, paused, seeking and stopped. Recorded media pass through
// waiting too, for as long as it takes to open them.
const (
	ready   state = iota // nothing was played yet, or it has failed
	waiting              // media are being opened; for live ones until a publisher comes
	playing
	paused  // no source is open
	seeking // media are being opened at another place; the old source is kept should that fail
	held    // the same while paused
	stopped // all is sent; of recorded media the client may still be playing the rest
	numStates
)

func (s state) String() string {
	return [...]string{"ready", "waiting", "playing", "paused", "seeking", "held", "stopped"}[s]
}

type kind uint8

const (
	// From the client.
	play  kind = iota // instead of what there is
	queue             // after what there is
	deny              // a play that may not be: the stage is stopping, the list is full
	pause
	unpause
	seek
	misseek // a seek to where there is nothing
	// From the reader and the source.
	opened
	refused // it could not be opened
	broken  // it failed midway
	ended   // nothing comes after it
	turned  // it ended, and the list goes on
	numKinds

	// These move no state, and are in no row of the table.
	none
	buffer
	receive
	drain
	riding // a round sends what comes, until an event
)

func (k kind) String() string {
	return [...]string{"play", "queue", "deny", "pause", "unpause", "seek", "misseek",
		"opened", "refused", "broken", "ended", "turned", "", "none", "buffer", "receive", "drain", "riding"}[k]
}

// An event is what happens to a player. Only the fields that its kind needs are set.
type event struct {
	kind  kind
	on    bool          // receive
	track media.Track   // receive
	at    time.Duration // pause, unpause, seek: the client's time; buffer: its length
	req   *Request      // play, queue, deny
	open  result        // opened
	err   error         // refused, broken, deny; ended: nil when a length has been reached
}

// A step is what a player does on an event, and the state it is in afterwards.
type step struct {
	do   func(*player, event)
	next state
}

// The table. An event that a state does not name means nothing in it.
var table = [numStates][numKinds]step{
	ready: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).begin, waiting},
		deny:    {(*player).deny, ready},
		seek:    {(*player).failSeek, ready},
		misseek: {(*player).failSeek, ready},
	},
	waiting: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).append, waiting},
		deny:    {(*player).deny, waiting},
		pause:   {(*player).postpone, waiting},
		unpause: {(*player).postpone, waiting},
		seek:    {(*player).postpone, waiting},
		opened:  {(*player).start, playing},
		refused: {(*player).fail, ready},
	},
	playing: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).append, playing},
		deny:    {(*player).deny, playing},
		pause:   {(*player).pause, paused},
		unpause: {(*player).confirmUnpause, playing},
		seek:    {(*player).seek, seeking},
		misseek: {(*player).failSeek, playing},
		broken:  {(*player).fail, ready},
		ended:   {(*player).finish, stopped},
		turned:  {(*player).turn, waiting},
	},
	paused: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).append, paused},
		deny:    {(*player).deny, paused},
		pause:   {(*player).confirmPause, paused},
		unpause: {(*player).resume, waiting},
		seek:    {(*player).seek, held},
		misseek: {(*player).failSeek, paused},
		ended:   {(*player).finish, stopped},
		turned:  {(*player).turnPaused, waiting},
	},
	seeking: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).append, seeking},
		deny:    {(*player).deny, seeking},
		pause:   {(*player).postpone, seeking},
		unpause: {(*player).postpone, seeking},
		seek:    {(*player).postpone, seeking},
		opened:  {(*player).land, playing},
		refused: {(*player).failSeek, playing},
		ended:   {(*player).finish, stopped},
	},
	held: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).append, held},
		deny:    {(*player).deny, held},
		pause:   {(*player).postpone, held},
		unpause: {(*player).postpone, held},
		seek:    {(*player).postpone, held},
		opened:  {(*player).show, paused},
		refused: {(*player).failSeek, paused},
		ended:   {(*player).finish, stopped},
	},
	stopped: {
		play:    {(*player).begin, waiting},
		queue:   {(*player).begin, waiting},
		deny:    {(*player).deny, stopped},
		pause:   {(*player).pauseEnd, paused},
		seek:    {(*player).replay, waiting},
		misseek: {(*player).failSeek, stopped},
	},
}
