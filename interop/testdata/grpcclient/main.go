// Command grpcclient calls one method of the SPP with grpc-go: it reads the request as protobuf's JSON on standard input and
// prints the answer so, or the status with its details, with exit code 1.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "grpcclient ADDRESS CA METHOD [CERTIFICATE KEY]")
		os.Exit(2)
	}
	if err := call(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		s := status.Convert(err)
		fmt.Printf("%s: %s\n", s.Code(), s.Message())
		for _, d := range s.Details() {
			if m, ok := d.(proto.Message); ok {
				fmt.Println(protojson.Format(m))
			}
		}
		os.Exit(1)
	}
}

func messages(method string) (req, res proto.Message) {
	switch path.Base(method) {
	case "Modules":
		return &provisioningrpc.ModulesRequest{}, &provisioningrpc.ModulesResponse{}
	case "Begin":
		return &provisioningrpc.BeginRequest{}, &provisioningrpc.BeginResponse{}
	default:
		return &provisioningrpc.StatusRequest{}, &provisioningrpc.StatusResponse{}
	}
}

func call(address, ca, method string, pair []string) error {
	text, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(text)
	if len(pair) == 2 {
		c, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{c}
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, res := messages(method)
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(stdin, req); err != nil {
		return err
	}
	if err := connection.Invoke(ctx, method, req, res); err != nil {
		return err
	}
	fmt.Println(protojson.Format(res))
	return nil
}
