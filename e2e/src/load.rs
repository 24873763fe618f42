//! Steady load by a real client: connections that are kept, requests one after the other, and every failure counted.
//!
//! An answer counts if it is a 200 that tells back what just this request has said. A request is repeated in one case only, in
//! which every client does so (RFC 9112, 9.3.1): it can be, and the connection, which was kept, was closed before anything of an
//! answer came. What is posted is never repeated.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// How long a request may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(10);
/// Between the requests of a connection: many connections, none of them in a hurry.
const PAUSE: Duration = Duration::from_millis(5);
/// Failures that are kept as text.
const KEPT: usize = 10;

/// Requests that go on until they are stopped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    target: Target,
    method: Method,
    stop: AtomicBool,
    /// Those that were begun,
    begun: AtomicU64,
    /// and those of which something has come.
    requests: AtomicU64,
    failures: AtomicU64,
    repeated: AtomicU64,
    kept: Mutex<Vec<String>>,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// Those that were made again on another connection.
    pub(crate) repeated: u64,
    pub(crate) examples: Vec<String>,
}

impl Load {
    /// Begins to ask somebody who tells back what he was asked.
    pub(crate) fn start(target: Target, connections: usize) -> Self {
        Self::of(Method::GET, target, connections)
    }

    /// Begins to tell him something, which nobody on the way may do twice.
    pub(crate) fn post(target: Target, connections: usize) -> Self {
        Self::of(Method::POST, target, connections)
    }

    fn of(method: Method, target: Target, connections: usize) -> Self {
        let shared = Arc::new(Shared {
            target,
            method,
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            kept: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            clients.spawn(client(shared.clone()));
        }
        Self { shared, clients }
    }

    /// Waits until so many more requests have been answered, so that what was just done has met traffic.
    pub(crate) async fn more(&self, count: u64) -> anyhow::Result<()> {
        let goal = self.shared.requests.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.shared.requests.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(120), reached)
            .await
            .context("no requests are answered any more")
    }

    /// Ends.
    pub(crate) async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let kept = self.shared.kept.lock();
        Report {
            requests: self.shared.requests.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            repeated: self.shared.repeated.load(Ordering::Relaxed),
            examples: kept.map(|kept| kept.clone()).unwrap_or_default(),
        }
    }
}

impl Report {
    /// Holds that there was load and that none of it failed.
    pub(crate) fn nothing_failed(&self) -> anyhow::Result<()> {
        ensure!(self.requests > 100, "only {} requests were made", self.requests);
        ensure!(
            self.failures == 0,
            "{} of {} requests failed, {} were repeated: {}",
            self.failures,
            self.requests,
            self.repeated,
            self.examples.join("; ")
        );
        Ok(())
    }
}

async fn client(shared: Arc<Shared>) {
    let mut kept = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let asked = Asked::new(
            &shared.target,
            &shared.method,
            shared.begun.fetch_add(1, Ordering::Relaxed),
        );
        let answered = match kept.take() {
            Some(connection) => match asked.on(connection).await {
                Err(Failed::Unheard(_)) if shared.method.is_idempotent() => {
                    shared.repeated.fetch_add(1, Ordering::Relaxed);
                    asked.anew().await
                }
                answered => answered,
            },
            None => asked.anew().await,
        };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        match answered {
            Ok(answer) => {
                if let Err(wrong) = asked.is_answered_by(&answer) {
                    shared.fail(wrong);
                }
                kept = answer.connection;
            }
            Err(error) => shared.fail(error.to_string()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn fail(&self, why: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut kept) = self.kept.lock()
            && kept.len() < KEPT
        {
            kept.push(why);
        }
    }
}

/// A request.
struct Asked<'t> {
    target: &'t Target,
    method: &'t Method,
    /// What no other request says.
    mark: String,
}

/// What has come of it.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    /// It can carry another request.
    connection: Option<Connection>,
}

/// Nothing, or not all.
enum Failed {
    /// The connection, which had carried others, was closed before anything came.
    Unheard(anyhow::Error),
    Otherwise(anyhow::Error),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unheard(error) | Self::Otherwise(error)) = self;
        write!(f, "{error:#}")
    }
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        let (Failed::Unheard(error) | Failed::Otherwise(error)) = failed;
        error
    }
}

impl<'t> Asked<'t> {
    fn new(target: &'t Target, method: &'t Method, number: u64) -> Self {
        Self {
            target,
            method,
            mark: format!("weft-e2e-{number}-"),
        }
    }

    /// Asks on a new connection.
    async fn anew(&self) -> Result<Answer, Failed> {
        let connection = Connection::new(self.target.address).await;
        self.on(connection.map_err(Failed::Otherwise)?).await
    }

    async fn on(&self, mut connection: Connection) -> Result<Answer, Failed> {
        let before = connection.heard.load(Ordering::Relaxed);
        let request = self.request().map_err(Failed::Otherwise)?;
        let exchange = async {
            connection.sender.ready().await?;
            let response = connection.sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            hyper::Result::Ok((head, body.collect().await?.to_bytes()))
        };
        match timeout(LIMIT, exchange).await {
            Ok(Ok((head, body))) => {
                let closes = head.headers.get("connection").is_some_and(|value| value == "close");
                Ok(Answer {
                    status: head.status.as_u16(),
                    headers: head.headers,
                    body,
                    connection: (!closes).then_some(connection),
                })
            }
            // What has been said by then was about requests before this one.
            Ok(Err(error)) if before > 0 && connection.heard.load(Ordering::Relaxed) == before => {
                Err(Failed::Unheard(error.into()))
            }
            Ok(Err(error)) => Err(Failed::Otherwise(error.into())),
            Err(_) => Err(Failed::Otherwise(anyhow::anyhow!("no answer in time"))),
        }
    }

    /// What it says stands in the body of what is posted, else in a header.
    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .method(self.method)
            .uri(&self.target.path)
            .header("host", &self.target.host);
        Ok(if self.method == Method::POST {
            request.body(self.mark.clone().into())?
        } else {
            request.header("x-mark", &self.mark).body(Full::default())?
        })
    }

    fn is_answered_by(&self, answer: &Answer) -> Result<(), String> {
        let said = String::from_utf8_lossy(&answer.body);
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, said.trim()));
        }
        if !said.contains(&self.mark) {
            return Err(format!(
                "{} is answered by what does not tell it back: {said}",
                self.mark
            ));
        }
        Ok(())
    }
}

/// A connection, and how many bytes have come by it.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    heard: Arc<AtomicU64>,
}

impl Connection {
    async fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let connect = timeout(LIMIT, TcpStream::connect(address));
        let stream = connect
            .await
            .context("no connection in time")?
            .context("no connection")?;
        stream.set_nodelay(true)?;
        let heard = Arc::<AtomicU64>::default();
        let stream = Heard {
            stream,
            bytes: heard.clone(),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, heard })
    }
}

/// A stream, and how many bytes were read from it.
struct Heard {
    stream: TcpStream,
    bytes: Arc<AtomicU64>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.bytes
            .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One answer, on a connection of its own.
async fn answer(target: &Target) -> anyhow::Result<Answer> {
    Ok(Asked::new(target, &Method::GET, 0).anew().await?)
}

/// The body of one answer, and its type.
pub(crate) async fn page(target: &Target) -> anyhow::Result<(String, String)> {
    let answer = answer(target).await?;
    ensure!((200..300).contains(&answer.status), "status {}", answer.status);
    let kind = answer.headers.get("content-type").map(|kind| kind.to_str());
    let kind = kind.transpose()?.unwrap_or_default().to_owned();
    Ok((kind, String::from_utf8(answer.body.into())?))
}

/// The body of one answer.
pub(crate) async fn body(target: &Target) -> anyhow::Result<String> {
    Ok(page(target).await?.1)
}

/// What a data plane has counted.
pub(crate) async fn metrics(pod: IpAddr) -> anyhow::Result<String> {
    body(&Target {
        address: SocketAddr::new(pod, 15020),
        host: "metrics".to_owned(),
        path: "/metrics".to_owned(),
    })
    .await
}

/// The status of one request on a connection of its own.
pub(crate) async fn status(target: &Target) -> anyhow::Result<u16> {
    Ok(answer(target).await?.status)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What a server does with a request.
    #[derive(Clone, Copy)]
    enum Does {
        Answers,
        Ends,
        BreaksOff,
        AnswersAnother,
    }

    /// Serves a connection after the other, each as it is said, and closes it then.
    async fn serve(listener: TcpListener, connections: Vec<Vec<Does>>) {
        for does in connections {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            for does in does {
                let mut said = String::new();
                // What is posted may come after its head.
                while !said.contains("weft-e2e-") {
                    let mut some = [0; 4096];
                    let length = stream.read(&mut some).await.expect("it asks");
                    assert_ne!(length, 0, "it asks for all of it");
                    said.push_str(&String::from_utf8_lossy(&some[..length]));
                }
                let (length, body) = match does {
                    Does::Answers => (said.len(), said.as_str()),
                    Does::AnswersAnother => (2, "no"),
                    Does::BreaksOff => (100, "no"),
                    Does::Ends => break,
                };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.expect("it is there");
            }
        }
    }

    /// Two requests, one after the other, on as many connections as it takes.
    async fn two(method: Method, connections: Vec<Vec<Does>>) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Target {
            address: listener.local_addr().expect("an address"),
            host: "web".to_owned(),
            path: "/".to_owned(),
        };
        let serving = tokio::spawn(serve(listener, connections));
        let load = Load::of(method, target, 1);
        while load.shared.begun.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        let report = load.stop().await;
        serving.abort();
        report
    }

    #[tokio::test]
    async fn only_what_nothing_was_heard_of_on_a_kept_connection_is_repeated() {
        use Does::{Answers, AnswersAnother, BreaksOff, Ends};
        let cases = [
            (Method::GET, vec![vec![Answers, Answers]], (0, 0)),
            (Method::GET, vec![vec![Answers, Ends], vec![Answers]], (0, 1)),
            (Method::GET, vec![vec![Answers, BreaksOff], vec![Answers]], (1, 0)),
            (Method::GET, vec![vec![Answers, AnswersAnother], vec![Answers]], (1, 0)),
            (Method::GET, vec![vec![Ends], vec![Answers]], (1, 0)),
            (Method::POST, vec![vec![Answers, Answers]], (0, 0)),
            (Method::POST, vec![vec![Answers, Ends], vec![Answers]], (1, 0)),
        ];
        for (number, (method, connections, expected)) in cases.into_iter().enumerate() {
            let report = two(method, connections).await;
            assert_eq!(report.requests, 2, "{number}");
            assert_eq!((report.failures, report.repeated), expected, "{number}: {report:?}");
        }
    }
}
