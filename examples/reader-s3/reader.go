// The stage: its settings, and how a name becomes an object of the bucket.

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mediad/mediad/core/container"
	"github.com/mediad/mediad/core/media"
	"github.com/mediad/mediad/core/stage"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Settings are what stands behind `with` in pipelines.yaml.
type Settings struct {
	Endpoint  string        `set:"endpoint" doc:"host, or host:port, of the server"`
	Bucket    string        `set:"bucket,required" doc:"the bucket with the media"`
	Prefix    string        `set:"prefix" doc:"put before each name to make a key, as in films/"`
	AccessKey string        `set:"access_key" doc:"with secret_key, who reads; without, the bucket must be public"`
	SecretKey string        `set:"secret_key" doc:"as in ${S3_SECRET_KEY}, which takes it from the environment"`
	Region    string        `set:"region" doc:"of the bucket"`
	Insecure  bool          `set:"insecure" doc:"HTTP instead of HTTPS"`
	Timeout   time.Duration `set:"timeout" doc:"how long the server may take for an answer, each of up to 1 MiB"`
	Index     stage.Size    `set:"index" doc:"memory for the indexes of files"`
}

// Check implements stage.Checker.
func (s *Settings) Check() error {
	if strings.Contains(s.Endpoint, "/") {
		return stage.Wrong("endpoint", "%q is no host: HTTPS is taken unless insecure is true", s.Endpoint)
	}
	if (s.AccessKey == "") != (s.SecretKey == "") {
		return stage.Wrong("secret_key", "goes together with access_key")
	}
	if s.Timeout <= 0 {
		return stage.Wrong("timeout", "must be more than 0")
	}
	return nil
}

// Kind describes reader-s3.
func Kind() stage.Kind {
	return stage.Kind{
		Name:    "reader-s3",
		Summary: "Reads FLV and MP4 files from an S3 bucket.",
		Settings: func() any {
			return &Settings{Endpoint: "s3.amazonaws.com", Region: "us-east-1", Timeout: 10 * time.Second, Index: 64 << 20}
		},
		Ports: stage.Ports{ProvidesReader: true},
		New: func(env stage.Env, settings any) (stage.Stage, error) {
			return newReader(env, *settings.(*Settings))
		},
	}
}

// attempts is how often minio-go tries a request that fails for a passing reason, and
// how often an answer that broke off is asked for again.
const attempts = 3

// A reader opens objects of a bucket.
type reader struct {
	env       stage.Env
	settings  Settings
	client    minio.Core
	transport *http.Transport
	indexes   *container.Indexes // by key and ETag
}

func newReader(env stage.Env, s Settings) (*reader, error) {
	transport, err := minio.DefaultTransport(!s.Insecure)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(s.Endpoint, &minio.Options{
		Creds:      credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""),
		Secure:     !s.Insecure,
		Region:     s.Region,
		Transport:  transport,
		MaxRetries: attempts,
	})
	if err != nil {
		return nil, stage.Wrong("endpoint", "%w", err)
	}
	return &reader{
		env:       env,
		settings:  s,
		client:    minio.Core{Client: client},
		transport: transport,
		indexes:   container.NewIndexes(int(s.Index)),
	}, nil
}

// Serve implements stage.Stage.
func (r *reader) Serve(ctx context.Context) error {
	<-ctx.Done()
	r.transport.CloseIdleConnections()
	return nil
}

// Open implements media.Reader.
func (r *reader) Open(ctx context.Context, req media.OpenRequest) (media.Source, error) {
	src, err := r.open(ctx, req)
	if errors.Is(err, media.ErrChanged) { // while its index was read
		src, err = r.open(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	return src, nil
}

func (r *reader) open(ctx context.Context, req media.OpenRequest) (*container.Source, error) {
	info, err := r.find(ctx, req)
	if err != nil {
		return nil, err
	}
	o := r.newObject(info)
	index, err := r.indexes.Get(ctx, o.key, o.etag, func() (media.Index, error) { return container.Open(ctx, o) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", o, err), o.Close())
	}
	described := media.Info{Name: req.Name, Version: o.etag, Size: o.size}
	return container.NewSource(described, o, index, req.From, func(err error) error {
		err = fmt.Errorf("%s: %w", o, err)
		r.env.Log.Error("an object cannot be read on", "reason", err)
		return err
	}), nil
}

// Cost implements media.Coster.
func (r *reader) Cost(ctx context.Context, req media.OpenRequest) (media.Cost, error) {
	if _, err := r.find(ctx, req); err != nil {
		return media.Cost{}, err
	}
	return media.Cost{Place: "s3", Base: media.CostHTTP}, nil
}

// suffixes are tried in turn after a name.
var suffixes = []string{"", ".flv", ".mp4"}

// find asks for the object that a request means. A server that does not let us list
// the bucket denies what is not there, so a denial is told only when nothing is found.
func (r *reader) find(ctx context.Context, req media.OpenRequest) (minio.ObjectInfo, error) {
	missing := fmt.Errorf("%s in bucket %s: %w", req.Name, r.settings.Bucket, media.ErrNotFound)
	if err := media.CheckName(req.Name); err != nil || req.LiveOnly {
		return minio.ObjectInfo{}, missing
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.settings.Timeout, errSlow)
	defer cancel()
	for _, suffix := range suffixes {
		key := r.settings.Prefix + req.Name + suffix
		info, err := r.client.StatObject(ctx, r.settings.Bucket, key, minio.StatObjectOptions{})
		if err == nil {
			return info, nil
		}
		err = fmt.Errorf("%s in bucket %s: %w", key, r.settings.Bucket, known(ctx, err))
		switch {
		case errors.Is(err, media.ErrDenied) && errors.Is(missing, media.ErrNotFound):
			missing = err
		case errors.Is(err, media.ErrDenied):
		case !errors.Is(err, media.ErrNotFound):
			return minio.ObjectInfo{}, err
		}
	}
	return minio.ObjectInfo{}, missing
}
