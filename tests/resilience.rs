//! What happens when a provider cannot be reached, and how providers come and go: fallback, circuit breaker, proxy, own
//! certificates, keys of the host, the registry.

mod support;

use par::runtime::Runtime;
use par::types::Status;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use support::client::{next, of_type, run, text};
use support::{FakeServer, Reply, openai};

fn hello() -> Reply {
    Reply::sse(openai::text_chunks(["Hi."], openai::usage(1, 1)))
}

fn provider(server: &FakeServer, extra: Value) -> Value {
    let mut provider =
        json!({"type": "openai", "api_key": "k", "base_url": server.base_url(), "retry": {"max_attempts": 1}});
    for (key, value) in extra.as_object().unwrap() {
        provider[key] = value.clone();
    }
    provider
}

fn two(first: &FakeServer, second: &FakeServer) -> Runtime {
    let providers = json!({"p": provider(first, json!({})), "q": provider(second, json!({}))});
    let runtime = support::create(&json!({"llm_providers": providers}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "p/m", "fallback": ["q/n"]}"#).unwrap();
    runtime
}

fn ask(runtime: &Runtime) -> (Vec<Value>, Result<Value, par::types::Error>) {
    run(runtime, json!({"agent": "a", "input": "Hi"}))
}

#[test]
fn another_model_is_asked_when_the_first_cannot_be_reached() {
    for reply in [Reply::status(503), Reply::status(429), Reply::refuse()] {
        let (first, second) = (FakeServer::start([reply]), FakeServer::start([hello()]));
        let (events, result) = ask(&two(&first, &second));
        assert_eq!(result.unwrap()["text"], "Hi.");
        let fallback = of_type(&events, "fallback");
        assert_eq!((fallback.len(), &fallback[0]["from"], &fallback[0]["to"]), (1, &json!("p/m"), &json!("q/n")));
        assert_eq!(second.requests()[0].body["model"], "n");
    }
}

#[test]
fn what_another_model_would_share_or_a_reader_has_seen_is_not_repeated() {
    for reply in [Reply::status(400), Reply::status(401)] {
        let (first, second) = (FakeServer::start([reply]), FakeServer::start([]));
        assert!(ask(&two(&first, &second)).1.is_err());
        assert!(second.requests().is_empty());
    }
    let chunks = openai::text_chunks(["Half"], openai::usage(1, 1));
    let cut = Reply::sse(chunks.into_iter().take(2)).cut();
    let (first, second) = (FakeServer::start([cut]), FakeServer::start([]));
    let (events, result) = ask(&two(&first, &second));
    assert_eq!((text(&events).as_str(), result.is_err()), ("Half", true));
    assert!(second.requests().is_empty());
}

#[test]
fn a_failing_endpoint_is_left_alone_and_tried_again() {
    let server = FakeServer::start([Reply::status(500), Reply::status(500), hello()]);
    let config = provider(&server, json!({"circuit_breaker": {"failures": 2, "open_seconds": 0.1}}));
    let runtime = support::create(&json!({"llm_providers": {"p": config}}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "p/m"}"#).unwrap();
    assert_eq!(ask(&runtime).1.unwrap_err().code(), Some("provider_error"));
    assert_eq!(ask(&runtime).1.unwrap_err().code(), Some("provider_error"));
    let open = ask(&runtime).1.unwrap_err();
    assert_eq!((open.code(), open.is_retryable(), server.requests().len()), (Some("circuit_open"), true, 2));
    std::thread::sleep(std::time::Duration::from_millis(120));
    assert_eq!(ask(&runtime).1.unwrap()["text"], "Hi.");
}

#[test]
fn connections_go_through_the_proxy() {
    let proxy = FakeServer::start([hello()]);
    let config = json!({"type": "openai", "api_key": "k", "base_url": "http://model.invalid/v1", "proxy": proxy.url()});
    let runtime = support::create(&json!({"llm_providers": {"p": config}}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "p/m"}"#).unwrap();
    assert_eq!(ask(&runtime).1.unwrap()["text"], "Hi.");
    assert_eq!(proxy.requests()[0].path, "http://model.invalid/v1/chat/completions");
}

/// One HTTPS answer from a server whose certificate nobody knows.
fn tls_server() -> (u16, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for socket in listener.incoming().take(2) {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut socket = socket.unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut socket);
            let mut request = [0; 4096];
            // A client that does not trust us hangs up.
            if std::io::Read::read(&mut tls, &mut request).is_err() {
                continue;
            }
            let body = json!({"model": "m", "choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}).to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = tls.write_all(head.as_bytes());
            let _ = tls.write_all(body.as_bytes());
            connection.send_close_notify();
            let _ = connection.write_tls(&mut socket);
        }
    });
    (port, pem)
}

#[test]
fn own_certificates_are_trusted_and_unknown_ones_are_not() {
    let (port, pem) = tls_server();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    let asked = |ca_file: Option<&str>| {
        let config = json!({"type": "openai", "api_key": "k", "base_url": format!("https://localhost:{port}/v1"), "stream": false,
                            "ca_file": ca_file, "retry": {"max_attempts": 1}});
        let runtime = support::create(&json!({"llm_providers": {"p": config}}).to_string()).unwrap();
        runtime.register_agent(r#"{"id": "a", "model": "p/m"}"#).unwrap();
        ask(&runtime).1
    };
    let error = asked(None).unwrap_err();
    assert!(error.message().contains("no trusted TLS connection"), "{error}");
    assert_eq!(asked(file.path().to_str()).unwrap()["text"], "Hi.");
    let missing = asked(Some("/nowhere.pem")).unwrap_err();
    assert!(missing.hint().unwrap().contains("PEM"), "{missing}");
}

#[test]
fn the_host_gives_the_key_when_it_is_needed() {
    let server = FakeServer::start([hello(), hello()]);
    let config = provider(&server, json!({"api_key": {"host": "openai-key"}}));
    let runtime = support::create(&json!({"llm_providers": {"p": config}}).to_string()).unwrap();
    runtime.register_agent(r#"{"id": "a", "model": "p/m"}"#).unwrap();
    for key in ["first", "second"] {
        let stream = runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).unwrap();
        let mut asked = None;
        while let Some(event) = next(&stream) {
            if event["type"] == "credential_request" {
                asked = Some((event["name"].clone(), event["provider"].clone()));
                runtime.tool_complete(event["token"].as_u64().unwrap(), &format!("{key:?}")).unwrap();
            }
            assert!(!event.to_string().contains("first"), "{event}");
        }
        assert_eq!(asked, Some((json!("openai-key"), json!("p"))));
        assert_eq!(server.requests().last().unwrap().header("authorization").unwrap(), format!("Bearer {key}"));
    }
    // A blocking call without a way to the host says so.
    let error = runtime.invoke(r#"{"agent": "a", "input": "Hi"}"#, None).unwrap_err();
    assert_eq!((error.status(), error.code()), (Status::Auth, Some("no_credential")));
}

#[test]
fn providers_come_and_go() {
    let (first, second) = (FakeServer::start([hello()]), FakeServer::start([hello()]));
    let runtime = support::create("{}").unwrap();
    let register = |name: &str, server: &FakeServer| {
        let mut definition = provider(server, json!({}));
        definition["name"] = json!(name);
        runtime.register_provider_config(&definition.to_string())
    };
    assert_eq!(runtime.register_agent(r#"{"id": "a", "model": "m"}"#).unwrap_err().status(), Status::NotFound);
    register("p", &first).unwrap();
    assert_eq!(register("p", &first).unwrap_err().status(), Status::Exists);
    // The only one there is, is the default.
    runtime.register_agent(r#"{"id": "a", "model": "m"}"#).unwrap();
    ask(&runtime).1.unwrap();
    register("q", &second).unwrap();
    let refused = runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).err().map(|error| error.status());
    assert_eq!(refused, Some(Status::NotFound), "two, and none is the default");
    runtime.call("providers.set_default", r#"{"provider": "q"}"#, None).unwrap();
    ask(&runtime).1.unwrap();
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    runtime.call("providers.remove", r#"{"provider": "q"}"#, None).unwrap();
    assert!(runtime.stream(r#"{"agent": "a", "input": "Hi"}"#).is_err());
    let error = runtime.register_provider_config(r#"{"name": "x", "type": "opneai"}"#).unwrap_err();
    assert_eq!(error.path(), Some("provider.type"));
}
