//! A collector of spans: a real server of OTLP by gRPC, with the messages of OpenTelemetry itself.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    future::{Future, ready},
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex},
};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use tokio::runtime::Runtime;
use tonic::{
    Code, Request, Response, Status,
    server::{Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

/// A span, and of what it tells.
#[derive(Clone, Debug)]
pub struct Told {
    pub resource: BTreeMap<String, String>,
    pub attributes: BTreeMap<String, String>,
    pub span: Span,
}

impl Told {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Empty if it has none.
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub fn is_error(&self) -> bool {
        let status = self.span.status.as_ref();
        status.is_some_and(|status| status.code() == StatusCode::Error)
    }

    /// What the next one is told by the field `traceparent`.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace(), self.id())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    };
    let attributes = attributes.iter();
    attributes
        .map(|attribute| (attribute.key.clone(), text(attribute).unwrap_or_default()))
        .collect()
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Takes,
    TakesAllBut(i64),
    Refuses(Code),
}

/// Takes spans until it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
    answer: Arc<Mutex<Answer>>,
    _runtime: Runtime,
}

impl Collector {
    pub fn new() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"))
    }

    /// On a socket that listens.
    pub fn on(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).expect("it is open");
        let address = listener.local_addr().expect("it is bound");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let answer = Arc::new(Mutex::new(Answer::Takes));
        let export = Export {
            told: told.clone(),
            answer: answer.clone(),
        };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
            while let Ok((stream, _)) = listener.accept().await {
                let export = export.clone();
                let service = service_fn(move |request| answered(export.clone(), request));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        Self {
            address,
            told,
            answer,
            _runtime: runtime,
        }
    }

    /// All that was told so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().expect("nobody panics with it").clone()
    }

    /// What it answers from now on.
    pub fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("nobody panics with it") = answer;
    }
}

async fn answered(
    export: Export,
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    assert_eq!(
        request.uri().path(),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    Ok(Grpc::new(ProstCodec::default()).unary(export, request).await)
}

#[derive(Clone)]
struct Export {
    told: Arc<Mutex<Vec<Told>>>,
    answer: Arc<Mutex<Answer>>,
}

impl UnaryService<ExportTraceServiceRequest> for Export {
    type Response = ExportTraceServiceResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::Response>, Status>> + Send>>;

    fn call(&mut self, request: Request<ExportTraceServiceRequest>) -> Self::Future {
        let answer = self.answer.lock().expect("nobody panics with it").clone();
        if let Answer::Refuses(code) = answer {
            return Box::pin(ready(Err(Status::new(code, "not now"))));
        }
        let mut told = self.told.lock().expect("nobody panics with it");
        for of in request.into_inner().resource_spans {
            let resource = texts(&of.resource.expect("spans are of something").attributes);
            for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                told.push(Told {
                    resource: resource.clone(),
                    attributes: texts(&span.attributes),
                    span,
                });
            }
        }
        let partial_success = match answer {
            Answer::TakesAllBut(rejected_spans) => Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: "too many".to_owned(),
            }),
            _ => None,
        };
        Box::pin(ready(Ok(Response::new(ExportTraceServiceResponse { partial_success }))))
    }
}
