//! With hyper on the other side.

use super::*;

/// An answer to every request: its method and target, and the length of its body.
async fn answer(
    monitor: Monitor,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
    use http_body_util::BodyExt;
    let line = format!("{} {} ", request.method(), request.uri());
    let body = request.into_body().collect().await?.to_bytes();
    monitor.exchange_closed();
    Ok(http::Response::new(http_body_util::Full::new(format!("{line}{}{}", body.len(), " ".repeat(1000)).into())))
}

#[test]
fn hyper_serves_good_requests_and_the_bad_one_after_them_is_handed_over() {
    run(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (wire, monitor) = Wire::http1(server, Limits::default());
        let seen = monitor.clone();
        let service = hyper::service::service_fn(move |request| {
            seen.exchange_opened();
            answer(seen.clone(), request)
        });
        let mut connection = std::pin::pin!(
            hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(wire), service)
        );
        client
            .write_all(
                b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                  POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await
            .unwrap();
        let rejection = poll_fn(|cx| {
            assert!(connection.as_mut().poll(cx).is_pending());
            monitor.poll_rejected(cx)
        })
        .await;
        assert_eq!(rejection.refusal, Refusal::ContentLengthAndTransferEncoding);
        assert_eq!(rejection.target.as_deref(), Some("/c"));
        let mut text = vec![0; 64 * 1024];
        let length = client.read(&mut text).await.unwrap();
        let text = String::from_utf8_lossy(&text[..length]);
        assert!(text.contains("GET /a 0 ") && text.contains("POST /b 3 "), "{text}");
        assert!(text.ends_with("  "), "the last answer has left to its end");
    });
}

#[test]
fn hyper_gives_the_exchange_an_error_that_says_why_its_body_was_refused() {
    run(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (wire, monitor) = Wire::http1(server, Limits::default());
        let service = hyper::service::service_fn(|request| async {
            let error = answer(monitor.clone(), request).await.unwrap_err();
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            let mut found = None;
            while let Some(error) = source {
                let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
                found = found.or(inner.and_then(|inner| inner.downcast_ref::<BodyRefused>().copied()));
                source = error.source();
            }
            Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(format!("{found:?}")))))
        });
        client.write_all(b"POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n").await.unwrap();
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(wire), service);
        let _ = connection.await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("BodyRefused(Chunk)"), "{text}");
    });
}

/// A connection that counts how often it is written to.
struct Counted<IO> {
    io: IO,
    writes: Rc<RefCell<usize>>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        *self.writes.borrow_mut() += 1;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

#[test]
fn answers_of_streams_that_are_ready_together_leave_in_few_writes() {
    use http_body_util::BodyExt;
    run(tokio::task::LocalSet::new().run_until(async {
        let (client, server) = tokio::io::duplex(256 * 1024);
        let writes = Rc::new(RefCell::new(0));
        let (wire, monitor) = Wire::http2(Counted { io: server, writes: Rc::clone(&writes) }, Limits::default());
        let service = hyper::service::service_fn(move |request| answer(monitor.clone(), request));
        tokio::task::spawn_local(
            hyper::server::conn::http2::Builder::new(Local).serve_connection(hyper_util::rt::TokioIo::new(wire), service),
        );
        let (sender, connection) =
            hyper::client::conn::http2::handshake(Local, hyper_util::rt::TokioIo::new(client)).await.unwrap();
        tokio::task::spawn_local(connection);
        let streams: Vec<_> = (0..10)
            .map(|number| {
                let mut sender = sender.clone();
                tokio::task::spawn_local(async move {
                    let request =
                        http::Request::get(format!("http://h/{number}")).body(http_body_util::Empty::<bytes::Bytes>::new());
                    let response = sender.send_request(request.unwrap()).await.unwrap();
                    response.into_body().collect().await.unwrap().to_bytes()
                })
            })
            .collect();
        for (number, stream) in streams.into_iter().enumerate() {
            assert!(stream.await.unwrap().starts_with(format!("GET http://h/{number} 0 ").as_bytes()));
        }
        // Settings and their acknowledgement, then the answers; without gathering there is one write an answer at least.
        assert!(*writes.borrow() <= 6, "{} writes", writes.borrow());
    }));
}
