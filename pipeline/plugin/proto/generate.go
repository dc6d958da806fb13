// Package proto is stage.proto, the protocol between the daemon and its plugins,
// as Go code. To make it anew, with Debian's protobuf-compiler installed:
//
//	go generate ./pipeline/plugin/proto
package proto

//go:generate go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//go:generate go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
//go:generate sh -c "PATH=$PATH:$(go env GOPATH)/bin exec protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative stage.proto"
