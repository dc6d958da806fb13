// Asking the running daemon over its HTTP listener.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/mediad/mediad/pipeline"
	"github.com/spf13/cobra"
)

// client asks a running daemon: the one at a URL, or the one that runs a file.
type client struct{ base, file *string }

// clientFlags adds the flags that say which daemon is asked.
func clientFlags(cmd *cobra.Command) client {
	return client{
		file: fileFlag(cmd),
		base: cmd.Flags().String("api", "", "URL of the daemon's HTTP listener (default: listen.http of the file)"),
	}
}

func (c client) url() string {
	if *c.base != "" {
		return *c.base
	}
	host, port := "127.0.0.1", "8080"
	if l := pipeline.ReadListen(*c.file, os.LookupEnv); l.HTTP != "" {
		host, port, _ = net.SplitHostPort(l.HTTP)
		if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
			host = "127.0.0.1"
		}
	}
	return "http://" + net.JoinHostPort(host, port)
}

// refusal is the daemon's answer to a request that it does not grant.
type refusal struct {
	code int
	text string
}

func (r refusal) Error() string { return r.text }

// ask sends a request and returns the body of the answer, which the caller closes.
// A refusal is a failure that wraps a refusal.
func (c client) ask(cmd *cobra.Command, method, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(cmd.Context(), method, c.url()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("--api: %w", err)
	}
	if token := pipeline.ReadListen(*c.file, os.LookupEnv).Token; token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, failure{fmt.Errorf("is mediad running, with listen.http? --api says where: %w", err)}
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	var reply struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&reply); err != nil || reply.Error == "" {
		return nil, failure{fmt.Errorf("%s answered %s: is it mediad?", c.url(), response.Status)}
	}
	return nil, failure{refusal{response.StatusCode, reply.Error}}
}

// get is ask for an answer in JSON.
func (c client) get(cmd *cobra.Command, method, path string, answer any) error {
	body, err := c.ask(cmd, method, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, 64<<20)).Decode(answer); err != nil {
		return failure{fmt.Errorf("%s gave an answer that is not understood: is it mediad? %w", c.url(), err)}
	}
	return nil
}
