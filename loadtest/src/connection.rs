//! One connection to a server: HTTP/1.1, or HTTP/2 by prior knowledge.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// The versions of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    #[value(name = "1")]
    Http1,
    #[value(name = "2")]
    Http2,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`
    pub authority: String,
    /// In front of every path; empty or `/…`.
    pub prefix: String,
}

impl Target {
    /// Reads `http://host:port/prefix`. Errors: not plain HTTP, no host.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        ensure!(uri.scheme_str() == Some("http"), "{url}: only http:// is spoken");
        let host = uri.host().context("a URL has a host")?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

/// A connection that serves one request after the other; of HTTP/2, clones share it.
pub enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Everything of a request but its body: prepared once, used for each.
#[derive(Clone)]
pub struct Head {
    parts: http::request::Parts,
}

impl Head {
    /// A request to `path` below the target's prefix. Errors: a header or path that can't be sent.
    pub fn new(
        target: &Target,
        protocol: Protocol,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
    ) -> anyhow::Result<Self> {
        let path = format!("{}{path}", target.prefix);
        let mut request = Request::builder().method(method);
        request = match protocol {
            // HTTP/1.1 names the host in a header, HTTP/2 in the URI.
            Protocol::Http1 => request.uri(path).header(header::HOST, &target.authority),
            Protocol::Http2 => request.uri(format!("http://{}{path}", target.authority)),
        };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (parts, ()) = request.body(()).context("building a request")?.into_parts();
        Ok(Self { parts })
    }
}

impl Connection {
    /// Connects. The connection's own work is a task of the current runtime.
    pub async fn open(target: &Target, protocol: Protocol) -> anyhow::Result<Self> {
        let authority = &target.authority;
        let connected = TcpStream::connect(authority).await;
        let stream = connected.with_context(|| format!("connecting to {authority}"))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Self::One(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Self::Two(sender)
            }
        })
    }

    /// Another user of the same connection. Errors: HTTP/1.1 has one request at a time.
    pub fn share(&self) -> anyhow::Result<Self> {
        match self {
            Self::One(_) => anyhow::bail!("several streams on a connection need HTTP/2"),
            Self::Two(sender) => Ok(Self::Two(sender.clone())),
        }
    }

    /// Sends a request and reads the answer. Errors: the connection is lost.
    pub async fn send(&mut self, head: &Head, body: Bytes) -> anyhow::Result<Answer> {
        let request = Request::from_parts(head.parts.clone(), Full::new(body));
        let response = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("reading an answer")?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_and_a_prefix() {
        let target = |url| Target::parse(url).map(|t| (t.authority, t.prefix)).ok();
        let expected =
            |authority: &str, prefix: &str| Some((authority.to_owned(), prefix.to_owned()));
        assert_eq!(target("http://127.0.0.1:8080"), expected("127.0.0.1:8080", ""));
        assert_eq!(target("http://host/x/"), expected("host:80", "/x"));
        assert_eq!(target("https://host"), None);
        assert_eq!(target("host:80"), None);
    }

    #[test]
    fn the_host_stands_where_each_version_wants_it() {
        let target = Target { authority: "h:1".to_owned(), prefix: "/p".to_owned() };
        let head = |protocol| Head::new(&target, protocol, Method::POST, "/x", &[]).unwrap().parts;
        let one = head(Protocol::Http1);
        assert_eq!(
            (one.uri.to_string().as_str(), &one.headers["host"]),
            ("/p/x", &"h:1".parse().unwrap())
        );
        assert_eq!(head(Protocol::Http2).uri.to_string(), "http://h:1/p/x");
    }
}
