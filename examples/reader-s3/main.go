// Command reader-s3 is a stage of mediad: it reads FLV and MP4 files from a bucket
// of S3, or of a server that speaks as S3 does.
//
//	go build -o ../../plugins.d/ .
//
// and in pipelines.yaml:
//
//	plugins: {dir: ./plugins.d}
//	pipelines:
//	  vod:
//	    - use: reader-s3
//	      with:
//	        endpoint: s3.example.com
//	        bucket: media
//	        access_key: ${S3_ACCESS_KEY}
//	        secret_key: ${S3_SECRET_KEY}
//	    - use: cache
//	    - use: broker
//	    - use: stream
//	      with: {app: vod}
package main

import "github.com/mediad/mediad/pipeline/plugin"

func main() { plugin.Serve(Kind()) }
