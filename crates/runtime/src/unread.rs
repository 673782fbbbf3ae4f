//! Bodies that nobody reads to their end, because the request is refused before.
//!
//! A sender that still writes when the connection closes sees a broken connection instead of the
//! refusal, and sends it all again. So the rest is read and thrown away, within bounds.

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    response::Response,
};
use bytes::Bytes;
use http::{Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Twice the longest body that any role takes.
const REST_BYTES_MAX: usize = 16 << 20;
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// What `answer` gives, and before that reads what it left of the body.
pub(crate) async fn read_to_the_end<F: Future<Output = Response>>(
    request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response {
    // HTTP/2 can end one stream and keep the connection.
    if request.body().is_end_stream() || request.version() >= Version::HTTP_2 {
        return answer(request).await;
    }
    let asks_first = request.headers().contains_key(header::EXPECT);
    let left = Arc::new(Mutex::new(None));
    let request = request
        .map(|body| Body::new(Lent { body: Some(body), begun: false, left: Arc::clone(&left) }));
    let response = answer(request).await;
    let rest = left.lock().take();
    match rest {
        // It is told not to send before it has begun.
        Some(Rest { begun: false, .. }) if asks_first => {}
        Some(Rest { body, .. }) if !body.is_end_stream() => {
            // Too long or too slow: then the connection breaks after all.
            let _given_up = tokio::time::timeout(REST_TIMEOUT, discard(body)).await;
        }
        _ => {}
    }
    response
}

async fn discard(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > REST_BYTES_MAX {
            return;
        }
    }
}

struct Rest {
    body: Body,
    begun: bool,
}

/// A body that comes back when the handler lets go of it.
struct Lent {
    body: Option<Body>,
    begun: bool,
    left: Arc<Mutex<Option<Rest>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let begun = self.begun;
        *self.left.lock() = self.body.take().map(|body| Rest { body, begun });
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::StatusCode, routing::post};
    use futures::{StreamExt, stream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tower::ServiceExt;

    /// Posts ten chunks to a handler that reads `wanted` of them; answers how many were read in all.
    async fn chunks_read(wanted: usize, expect: bool) -> usize {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let chunks = stream::iter(0..10).map(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, axum::Error>(Bytes::from_static(b"chunk"))
        });
        let handler = move |request: Request| async move {
            let mut body = request.into_body();
            for _ in 0..wanted {
                body.frame().await;
            }
            StatusCode::PAYLOAD_TOO_LARGE
        };
        let app = Router::new().route("/", post(handler));
        let mut request = Request::post("/");
        if expect {
            request = request.header(header::EXPECT, "100-continue");
        }
        let request = request.body(Body::from_stream(chunks)).unwrap();
        let answer = |request| async { app.oneshot(request).await.unwrap() };
        let response = read_to_the_end(request, answer).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        read.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn what_a_handler_leaves_of_a_body_is_read_before_the_answer() {
        assert_eq!(chunks_read(0, false).await, 10);
        assert_eq!(chunks_read(3, false).await, 10);
        assert_eq!(chunks_read(11, false).await, 10);
    }

    #[tokio::test]
    async fn a_sender_that_asks_first_is_not_made_to_send_what_nobody_wants() {
        assert_eq!(chunks_read(0, true).await, 0);
        assert_eq!(chunks_read(3, true).await, 10);
    }
}
