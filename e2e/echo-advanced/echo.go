package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoMethod is the one method of the service. Its messages have one string, numbered 1, as a StringValue has.
const echoMethod = "/proto.EchoTestService/Echo"

// echoHandler answers a message.
type echoHandler interface {
	Echo(ctx context.Context, message *wrapperspb.StringValue) (*wrapperspb.StringValue, error)
}

// echoService is that of the Istio project.
var echoService = grpc.ServiceDesc{
	ServiceName: "proto.EchoTestService",
	HandlerType: (*echoHandler)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(handler any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			message := new(wrapperspb.StringValue)
			if err := decode(message); err != nil {
				return nil, err
			}
			return handler.(echoHandler).Echo(ctx, message)
		},
	}},
}

// lines are the fields of a request or response, one a line.
type lines struct{ strings.Builder }

// add adds a field.
func (l *lines) add(name string, value any) { fmt.Fprintf(l, "%s=%v\n", name, value) }

// addHeaders adds a field for each value of each header, in the order of their names.
func (l *lines) addHeaders(field string, headers map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, value := range headers[name] {
			l.add(field, name+":"+value)
		}
	}
}
