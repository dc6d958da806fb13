// The members' own account of the directory, by NATS.

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// Dial connects from the host, as a nats.CustomDialer.
func (h *host) Dial(network, address string) (conn net.Conn, err error) {
	// The thread comes back: with one that ends, the kernel ends the nodes which that has started (Pdeathsig).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	away, err := os.Open("/run/netns/" + h.netns)
	if err != nil {
		return nil, err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
	}()
	return net.DialTimeout(network, address, time.Second)
}

// copied waits until each member has all records.
func (n *node) copied() {
	n.t.Helper()
	eventually(n.t, "all members have the records", func() error {
		ctx, cancel := context.WithTimeout(n.t.Context(), time.Second)
		defer cancel()
		member := fmt.Sprintf("nats://10.%d.0.1:4222", n.lab)
		conn, err := nats.Connect(member, nats.UserInfo("mediad", "lab"), nats.SetCustomDialer(n.host))
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		bucket, err := js.Stream(ctx, "KV_mediad")
		if err != nil {
			return err
		}
		cluster := bucket.CachedInfo().Cluster
		if cluster == nil || cluster.Leader == "" || len(cluster.Replicas) != members-1 {
			return fmt.Errorf("the bucket is on %+v", cluster)
		}
		for _, r := range cluster.Replicas {
			if !r.Current || r.Offline {
				err = errors.Join(err, fmt.Errorf("%s has not all of it", r.Name))
			}
		}
		return err
	})
}
