// Command gen compiles pkg/wire/proto with a pure-Go protobuf compiler and runs
// the two Go generators over it, so that regenerating needs no protoc.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var files = []string{"nouns.proto", "site.proto", "catalogue.proto", "mesh.proto", "enroll.proto", "state.proto", "api.proto", "peers.proto"}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gen PROTO-DIR OUT-DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(protoDir, outDir string) error {
	request, err := compile(protoDir)
	if err != nil {
		return err
	}
	for _, tool := range []string{"protoc-gen-go", "protoc-gen-connect-go"} {
		if err := generate(tool, request, outDir); err != nil {
			return fmt.Errorf("%s: %w", tool, err)
		}
	}
	return nil
}

func compile(dir string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{dir}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	linked, err := compiler.Compile(context.Background(), files...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: files,
		// The module option strips the module path from what is written.
		Parameter: new("module=github.com/chiba-mesh/chiba/pkg/wire"),
	}
	for _, file := range linked {
		request.ProtoFile = append(request.ProtoFile, clone(protoutil.ProtoFromFileDescriptor(file)))
	}
	return request, nil
}

func clone(file *descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorProto {
	copied, _ := proto.Clone(file).(*descriptorpb.FileDescriptorProto)
	return copied
}

func generate(tool string, request *pluginpb.CodeGeneratorRequest, outDir string) error {
	in, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(context.Background(), "go", "tool", tool)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out.Bytes(), &response); err != nil {
		return err
	}
	if response.GetError() != "" {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, file := range response.GetFile() {
		path := filepath.Join(outDir, file.GetName())
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
