// Command collector stands in for a collector of OpenTelemetry's: it takes spans by OTLP over gRPC, in the messages of OpenTelemetry
// itself, and tells whoever asks what it was told.
//
//	:4317  takes spans
//	:8080  GET / tells those that it keeps, as JSON, those that came first in front
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// most is how many spans are kept.
const most = 1000

// told is a span, and of what it tells.
type told struct {
	Trace      string            `json:"trace"`
	ID         string            `json:"id"`
	Parent     string            `json:"parent"`
	State      string            `json:"state"`
	Kind       string            `json:"kind"`
	Error      bool              `json:"error"`
	Resource   map[string]string `json:"resource"`
	Attributes map[string]string `json:"attributes"`
}

type server struct {
	collector.UnimplementedTraceServiceServer
	mutex sync.Mutex
	told  []told
}

// Export takes spans.
func (self *server) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	self.mutex.Lock()
	defer self.mutex.Unlock()
	for _, of := range request.GetResourceSpans() {
		resource := texts(of.GetResource().GetAttributes())
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				self.told = append(self.told, told{
					Trace:      hex.EncodeToString(span.GetTraceId()),
					ID:         hex.EncodeToString(span.GetSpanId()),
					Parent:     hex.EncodeToString(span.GetParentSpanId()),
					State:      span.GetTraceState(),
					Kind:       span.GetKind().String(),
					Error:      span.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR,
					Resource:   resource,
					Attributes: texts(span.GetAttributes()),
				})
			}
		}
	}
	self.told = self.told[max(0, len(self.told)-most):]
	return new(collector.ExportTraceServiceResponse), nil
}

func texts(attributes []*common.KeyValue) map[string]string {
	texts := map[string]string{}
	for _, attribute := range attributes {
		switch value := attribute.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			texts[attribute.GetKey()] = value.StringValue
		case *common.AnyValue_IntValue:
			texts[attribute.GetKey()] = strconv.FormatInt(value.IntValue, 10)
		default:
			texts[attribute.GetKey()] = "neither a text nor a number"
		}
	}
	return texts
}

func (self *server) ServeHTTP(response http.ResponseWriter, _ *http.Request) {
	self.mutex.Lock()
	body, err := json.Marshal(append([]told{}, self.told...))
	self.mutex.Unlock()
	if err != nil {
		http.Error(response, err.Error(), http.StatusInternalServerError)
		return
	}
	response.Header().Set("Content-Type", "application/json")
	response.Write(body)
}

func main() {
	self := new(server)
	listener, err := net.Listen("tcp", ":4317")
	if err != nil {
		log.Fatal(err)
	}
	takes := grpc.NewServer()
	collector.RegisterTraceServiceServer(takes, self)
	go func() { log.Fatal(takes.Serve(listener)) }()
	tells := http.Server{Addr: ":8080", Handler: self, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(tells.ListenAndServe())
}
