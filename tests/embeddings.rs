//! `embed` from end to end, for each wire family: what goes over the wire, in which batches, and every way it can fail.

mod support;

use par::runtime::Runtime;
use par::types::{Category, Error, Status};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{FakeServer, Reply};

fn runtime(provider: Value, embeddings: Value) -> Runtime {
    let mut provider = provider;
    if provider["type"] != "mock" {
        provider["retry"] =
            json!({"max_attempts": 3, "initial_delay_ms": 2, "max_delay_ms": 5, "max_retry_after_ms": 1_000});
    }
    let mut config = json!({"llm_providers": {"p": provider}});
    if !embeddings.is_null() {
        config["embeddings"] = embeddings;
    }
    support::create(&config.to_string()).unwrap()
}

fn openai(server: &FakeServer) -> Value {
    json!({"type": "openai", "api_key": "secret-key", "base_url": server.base_url()})
}

fn on(model: &str) -> Value {
    json!({"provider": "p", "model": model})
}

fn embed(runtime: &Runtime, params: Value) -> Result<Value, Error> {
    runtime
        .call("embed", &params.to_string(), Some(Duration::from_secs(10)))
        .map(|json| serde_json::from_str(&json).unwrap())
}

/// What an OpenAI-compatible server answers: its vectors, told backwards.
fn vectors(vectors: &[Value], tokens: u64) -> Reply {
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .rev()
        .map(|(index, vector)| json!({"object": "embedding", "index": index, "embedding": vector}))
        .collect();
    Reply::json(
        &json!({"object": "list", "model": "emb-1", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}),
    )
}

/// A vector for each text that was sent: its length, and its last character.
fn by_text(request: &support::Request) -> Reply {
    let texts: Vec<&str> =
        request.body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let all: Vec<Value> = texts.iter().map(|text| json!([text.len(), text.as_bytes()[text.len() - 1]])).collect();
    vectors(&all, texts.len() as u64)
}

#[test]
fn openai_restores_the_order() {
    let server = FakeServer::start([vectors(&[json!([0.25, -1.5]), json!([3, 4])], 7)]);
    let runtime =
        runtime(openai(&server), json!({"provider": "p", "model": "text-embedding-3-small", "dimensions": 2}));
    let answer = embed(&runtime, json!({"input": ["one", "two"]})).unwrap();
    assert_eq!(
        answer,
        json!({"model": "emb-1", "dimensions": 2, "embeddings": [[0.25, -1.5], [3.0, 4.0]], "usage": {"input_tokens": 7},
               "cost_usd": "0.00000014"})
    );
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/embeddings"));
    assert_eq!(request.header("authorization"), Some("Bearer secret-key"));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(
        request.body,
        json!({"model": "text-embedding-3-small", "input": ["one", "two"], "encoding_format": "float", "dimensions": 2})
    );
}

#[test]
fn one_text_is_sent_as_a_list_of_one_and_nothing_that_was_not_asked() {
    let server = FakeServer::with(|request, _| by_text(request));
    let responses = json!({"type": "openai", "api": "responses", "api_key": "k", "base_url": server.base_url(), "embedding_model": "emb"});
    let custom = json!({"type": "custom", "base_url": server.base_url()});
    let ollama = json!({"type": "ollama", "base_url": server.base_url()});
    for (provider, params) in [
        (responses, json!({"input": "hello", "provider": "p"})),
        (custom, json!({"input": "hello", "provider": "p", "model": "emb"})),
        (ollama, json!({"input": "hello", "provider": "p", "model": "emb"})),
    ] {
        let answer = embed(&runtime(provider, Value::Null), params).unwrap();
        assert_eq!(answer["embeddings"], json!([[5.0, 111.0]]));
        assert_eq!(answer.get("cost_usd"), None, "nobody knows the price of emb");
    }
    for request in server.requests() {
        assert_eq!(request.path, "/v1/embeddings");
        assert_eq!(request.body, json!({"model": "emb", "input": ["hello"], "encoding_format": "float"}));
    }
}

#[test]
fn ollama_speaks_its_own_api() {
    let reply =
        json!({"model": "nomic", "embeddings": [[1.0, 0.0], [0.0, 1.0]], "total_duration": 1, "prompt_eval_count": 8});
    let server = FakeServer::start([Reply::json(&reply)]);
    let provider = json!({"type": "ollama", "base_url": server.url(), "num_ctx": 4_096, "keep_alive": "5m"});
    let answer =
        embed(&runtime(provider, on("nomic-embed-text")), json!({"input": ["a", "b"], "dimensions": 2})).unwrap();
    assert_eq!(
        answer,
        json!({"model": "nomic", "dimensions": 2, "embeddings": [[1.0, 0.0], [0.0, 1.0]], "usage": {"input_tokens": 8}})
    );
    let request = &server.requests()[0];
    assert_eq!(request.path, "/api/embed");
    assert_eq!(
        request.body,
        json!({"model": "nomic-embed-text", "input": ["a", "b"], "truncate": false, "dimensions": 2, "keep_alive": "5m",
               "options": {"num_ctx": 4_096}})
    );
}

#[test]
fn gemini_batches_requests_of_one_text() {
    let server =
        FakeServer::start([Reply::json(&json!({"embeddings": [{"values": [1, 2, 3]}, {"values": [4, 5, 6]}]}))]);
    let provider = json!({"type": "gemini", "api_key": "key", "base_url": server.url()});
    let answer =
        embed(&runtime(provider, on("gemini-embedding-001")), json!({"input": ["a", "b"], "dimensions": 3})).unwrap();
    assert_eq!(
        answer,
        json!({"model": "gemini-embedding-001", "dimensions": 3, "embeddings": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
               "usage": {"input_tokens": 0}})
    );
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1beta/models/gemini-embedding-001:batchEmbedContents");
    assert_eq!(request.header("x-goog-api-key"), Some("key"));
    let one = |text: &str| json!({"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}, "outputDimensionality": 3});
    assert_eq!(request.body, json!({"requests": [one("a"), one("b")]}));
}

#[test]
fn the_mock_embeds_the_same_text_the_same_way() {
    let runtime = support::create("{}").unwrap();
    let answer = embed(&runtime, json!({"input": ["a", "b", "a"], "provider": "mock"})).unwrap();
    let all = answer["embeddings"].as_array().unwrap();
    assert_eq!((&answer["dimensions"], all[0].as_array().unwrap().len()), (&json!(1_536), 1_536));
    assert_eq!(all[0], all[2]);
    assert_ne!(all[0], all[1]);
    let short = embed(&runtime, json!({"input": "a", "provider": "mock", "dimensions": 3})).unwrap();
    let length: f64 = short["embeddings"][0].as_array().unwrap().iter().map(|n| n.as_f64().unwrap().powi(2)).sum();
    assert!(short["dimensions"] == 3 && (length - 1.0).abs() < 1e-6, "{short}");
}

#[test]
fn many_texts_go_in_batches_and_come_back_in_order() {
    let server = FakeServer::with(|request, _| by_text(request));
    let runtime = runtime(openai(&server), json!({"provider": "p", "model": "m", "batch_size": 3}));
    let texts: Vec<String> = (0..8).map(|n| format!("{}{n}", "x".repeat(n))).collect();
    let answer = embed(&runtime, json!({"input": texts})).unwrap();
    let wanted: Vec<Value> = (0..8).map(|n| json!([f64::from(n + 1), f64::from(48 + n)])).collect();
    assert_eq!((&answer["embeddings"], &answer["usage"]["input_tokens"]), (&json!(wanted), &json!(8)));
    let sizes: Vec<usize> =
        server.requests().iter().map(|request| request.body["input"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 3, 2]);
}

#[test]
fn a_failed_batch_fails_the_whole_and_is_named() {
    let error = json!({"error": {"message": "too long", "type": "invalid_request_error"}});
    let server = FakeServer::with(move |request, n| match n {
        1 => Reply::status(400).json_body(&error),
        _ => by_text(request),
    });
    let runtime = runtime(openai(&server), json!({"provider": "p", "model": "m", "batch_size": 2}));
    let error = embed(&runtime, json!({"input": ["a", "b", "c", "d", "e"]})).unwrap_err();
    assert!(error.message().starts_with("batch 2 of 3 (input 2 to 3): "), "{error:?}");
    assert_eq!((error.status(), error.category()), (Status::Provider, Category::InvalidInput));
    assert_eq!(error.provider().unwrap().http_status, Some(400));
    assert_eq!(server.requests().len(), 2, "the third batch is not sent");
}

#[test]
fn a_batch_is_tried_again_as_a_chat_request_is() {
    let server = FakeServer::with(|request, n| match n {
        1 => Reply::status(429).retry_after_ms(1).body("slow down"),
        2 => Reply::status(503).body("overloaded"),
        _ => by_text(request),
    });
    let runtime = runtime(openai(&server), json!({"provider": "p", "model": "m", "batch_size": 1}));
    let answer = embed(&runtime, json!({"input": ["a", "bb"]})).unwrap();
    assert_eq!(answer["embeddings"], json!([[1.0, 97.0], [2.0, 98.0]]));
    assert_eq!(server.requests().len(), 4);

    let down = FakeServer::with(|_, _| Reply::status(500).body("down"));
    let error = embed(&self::runtime(openai(&down), on("m")), json!({"input": "a"})).unwrap_err();
    assert_eq!((error.status(), down.requests().len()), (Status::Provider, 3));
    let refused = FakeServer::with(|_, _| Reply::status(401).body("who are you"));
    let error = embed(&self::runtime(openai(&refused), on("m")), json!({"input": "a"})).unwrap_err();
    assert_eq!((error.status(), refused.requests().len()), (Status::Auth, 1));
}

#[test]
fn what_is_not_an_answer_is_an_error() {
    for (reply, said) in [
        (vectors(&[json!([1])], 1), "1 vectors for 2 texts"),
        (vectors(&[json!([1]), json!([2]), json!([3])], 1), "3 vectors for 2 texts"),
        (vectors(&[json!([1, 2]), json!([3])], 1), "a vector of 1 dimensions for text 1, where 2 were due"),
        (vectors(&[json!([]), json!([])], 1), "a vector of 0 dimensions"),
        (vectors(&[json!([1e300]), json!([1])], 1), "not an answer of its API"),
        (Reply::json(&json!({"choices": []})), "not an answer of its API"),
        (
            Reply::json(&json!({"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]})),
            "not an answer",
        ),
        (Reply::status(200).content_type("application/json").body("{\"data\": ["), "not an answer"),
        (Reply::html(200, "Welcome"), "Welcome"),
    ] {
        let server = FakeServer::start([reply]);
        let error = embed(&runtime(openai(&server), on("m")), json!({"input": ["a", "b"]})).unwrap_err();
        assert!(error.status() == Status::Provider && error.message().contains(said), "{said}: {error:?}");
        assert!(error.hint().is_some() && server.requests().len() == 1, "{error:?}");
    }
}

#[test]
fn dimensions_that_were_asked_must_come() {
    let server = FakeServer::with(|request, _| by_text(request));
    let error = embed(&runtime(openai(&server), on("m")), json!({"input": "a", "dimensions": 3})).unwrap_err();
    assert!(error.message().contains("of 2 dimensions for text 0, where 3 were due"), "{error:?}");
    let uneven = FakeServer::with(|_, n| vectors(&[if n == 0 { json!([1, 2]) } else { json!([1]) }], 1));
    let runtime = runtime(openai(&uneven), json!({"provider": "p", "model": "m", "batch_size": 1}));
    let error = embed(&runtime, json!({"input": ["a", "b"]})).unwrap_err();
    assert!(error.message().contains("batch 2 of 2") && error.message().contains("where 2 were due"), "{error:?}");
}

#[test]
fn a_provider_without_embeddings_says_how_to_pair_another() {
    let server = FakeServer::start([]);
    let anthropic = json!({"type": "anthropic", "api_key": "k", "base_url": server.url()});
    let compatible = json!({"type": "custom", "request_format": "anthropic_compatible", "base_url": server.url()});
    for provider in [anthropic, compatible] {
        for params in [json!({"input": "a", "provider": "p"}), json!({"input": "a", "provider": "p", "model": "m"})] {
            let error = embed(&runtime(provider.clone(), Value::Null), params).unwrap_err();
            assert_eq!(error.status(), Status::UnsupportedByProvider);
            assert_eq!(
                (error.category(), error.code()),
                (Category::EmbeddingUnsupported, Some("embedding_unsupported"))
            );
            assert!(
                error.message().contains("\"p\"") && error.hint().unwrap().contains("\"embeddings\": {\"provider\"")
            );
        }
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn what_is_asked_wrongly_is_told_with_its_path() {
    let server = FakeServer::start([]);
    let bare = runtime(openai(&server), Value::Null);
    for (params, status, path) in [
        (json!({"input": ""}), Status::Schema, "params.input"),
        (json!({"input": []}), Status::Schema, "params.input"),
        (json!({"input": ["a", ""]}), Status::Schema, "params.input[1]"),
        (json!({"input": ["a", 1]}), Status::Schema, "params.input[1]"),
        (json!({}), Status::Schema, "params"),
        (json!({"input": "a", "modle": "m"}), Status::Schema, "params.modle"),
        (json!({"input": "a", "dimensions": 0}), Status::Schema, "params.dimensions"),
        (json!({"input": "a"}), Status::Schema, "params.provider"),
        (json!({"input": "a", "provider": "p"}), Status::Schema, "params.model"),
        (json!({"input": "a", "provider": "pp"}), Status::NotFound, "params.provider"),
    ] {
        let error = embed(&bare, params.clone()).unwrap_err();
        assert_eq!((error.status(), error.path()), (status, Some(path)), "{params}: {error:?}");
    }
    let absent = support::create(r#"{"embeddings": {"provider": "nobody", "model": "m"}}"#).unwrap();
    let error = embed(&absent, json!({"input": "a"})).unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::NotFound, Some("config.embeddings.provider")));
    let few = support::create(r#"{"limits": {"max_embed_inputs": 2}}"#).unwrap();
    let error = embed(&few, json!({"input": ["a", "b", "c"], "provider": "mock"})).unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::TooLarge, Some("params.input")));
    for (config, path) in [
        (json!({"provider": "p"}), "config.embeddings"),
        (json!({"provider": "p", "model": ""}), "config.embeddings.model"),
        (json!({"provider": "p", "model": "m", "batch_size": 0}), "config.embeddings.batch_size"),
        (json!({"provider": "p", "model": "m", "dimensions": 0}), "config.embeddings.dimensions"),
        (json!({"provider": "p", "model": "m", "batch": 1}), "config.embeddings.batch"),
    ] {
        let Err(error) = support::create(&json!({"embeddings": config}).to_string()) else { panic!("{path}") };
        assert_eq!(error.path(), Some(path), "{error:?}");
    }
}

#[test]
fn silence_ends_in_a_timeout() {
    let server = FakeServer::with(|_, _| Reply::status(200).content_type("application/json").body("{").stall());
    let mut provider = openai(&server);
    provider["timeouts"] = json!({"idle_ms": 50});
    provider["retry"] = json!({"max_attempts": 1});
    let config = json!({"llm_providers": {"p": provider}, "embeddings": on("m")});
    let error = embed(&support::create(&config.to_string()).unwrap(), json!({"input": "a"})).unwrap_err();
    assert_eq!((error.status(), error.category()), (Status::Network, Category::Timeout));

    let slow = runtime(openai(&server), on("m"));
    let began = Instant::now();
    let error = slow.call("embed", r#"{"input": "a"}"#, Some(Duration::from_millis(50))).unwrap_err();
    assert_eq!(error.status(), Status::Deadline);
    assert!(began.elapsed() < Duration::from_secs(5));
    server.wait_until("both connections to be dropped", |server| server.abandoned() == 2);
}

#[test]
fn cancelling_the_call_drops_the_connection() {
    let server = FakeServer::with(|_, _| Reply::status(200).content_type("application/json").body("{").stall());
    let runtime = runtime(openai(&server), on("m"));
    let stream = runtime.call_start("embed", r#"{"input": "a"}"#).unwrap();
    server.wait_until("the request", |server| server.requests().len() == 1);
    stream.cancel("enough");
    let events = support::client::events(&stream);
    assert_eq!(events.last().unwrap()["type"], "cancelled", "{events:?}");
    server.wait_until("the connection to be dropped", |server| server.abandoned() == 1);
}

#[test]
fn a_key_of_the_host_is_asked_for() {
    let server = FakeServer::with(|request, _| by_text(request));
    let mut provider = openai(&server);
    provider["api_key"] = json!({"host": "vault"});
    let runtime = runtime(provider, on("m"));
    let stream = runtime.call_start("embed", r#"{"input": "a"}"#).unwrap();
    let asked = support::client::next(&stream).unwrap();
    assert_eq!((&asked["type"], &asked["name"]), (&json!("credential_request"), &json!("vault")), "{asked}");
    runtime.tool_complete(asked["token"].as_u64().unwrap(), "\"fresh\"").unwrap();
    assert_eq!(support::client::events(&stream).last().unwrap()["type"], "completed");
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer fresh"));
}

#[test]
fn an_endpoint_that_fails_is_left_alone() {
    let server = FakeServer::with(|_, _| Reply::status(500).body("down"));
    let mut provider = openai(&server);
    provider["circuit_breaker"] = json!({"failures": 2, "open_seconds": 60});
    let runtime = runtime(provider, on("m"));
    embed(&runtime, json!({"input": "a"})).unwrap_err();
    let error = embed(&runtime, json!({"input": "a"})).unwrap_err();
    assert_eq!((error.code(), server.requests().len()), (Some("circuit_open"), 2), "{error:?}");
}
