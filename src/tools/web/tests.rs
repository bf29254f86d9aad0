//! The guard seen from outside: servers of this machine, names that a test resolves, and whatever a model may write as a URL.

use super::*;
use crate::config::strict;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use pretty_assertions::assert_eq;
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every question for a name with the next of its answers, the last one for ever.
#[derive(Default)]
struct Names {
    answers: Mutex<VecDeque<Vec<SocketAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), asked: Mutex::default() })
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.lock().push(host.to_owned());
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(std::future::ready(answer.ok_or_else(|| io::ErrorKind::NotFound.into())))
    }
}

fn no_tls() -> LibraryResult<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn web(config: &str, names: &Arc<Names>) -> Web {
    let config: WebConfig = strict::from_str(config, "web").unwrap();
    config.check("web").unwrap();
    Web::new(config, no_tls, Arc::clone(names) as Arc<dyn Resolve>)
}

/// Answers each connection with the next reply, and keeps the heads of the requests.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _serving: tokio_util::task::AbortOnDropHandle<()>,
}

impl Server {
    #[allow(clippy::disallowed_methods, reason = "a test's own server")]
    async fn start(replies: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, replies) = (Arc::clone(&heads), replies.into_iter().collect::<Vec<_>>());
        let serving = tokio::spawn(async move {
            for reply in replies {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 8192];
                let length = socket.read(&mut head).await.unwrap();
                kept.lock().push(String::from_utf8_lossy(&head[..length]).into_owned());
                let _ = socket.write_all(reply.as_bytes()).await;
            }
        });
        Self { address, heads, _serving: tokio_util::task::AbortOnDropHandle::new(serving) }
    }

    /// The configuration that lets a tool come here.
    fn allowed(&self) -> String {
        format!("{{\"allow\": [\"{}\"]}}", self.address)
    }
}

fn page(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn leads_to(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

async fn code(web: &Web, url: &str) -> String {
    match web.get(url).await {
        Ok(page) => panic!("{url} was fetched: {}", page.url),
        Err(failure) => failure.code.unwrap_or_default(),
    }
}

#[tokio::test]
async fn no_way_of_writing_an_address_leads_inside() {
    let names = Names::new(&[&["127.0.0.1:80"]]);
    let web = web("{}", &names);
    for url in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://0/",
        "http://0.0.0.0/",
        "http://127.0.0.1./",
        "http://１２７.０.０.１/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://%31%32%37.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:1::1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://169.254.169.254/latest",
        "http://0xA9FEA9FE/",
        "http://2852039166/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.0.1/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "https://127.0.0.1/",
        "http://127.0.0.1:22/",
        "HTTP://127.0.0.1/",
        "  http://127.0.0.1/",
        "http:127.0.0.1",
        "http:\\\\127.0.0.1\\",
        "http://127.0.0.1#@example.org/",
    ] {
        assert_eq!(code(&web, url).await, "address_refused", "{url}");
    }
    assert!(names.asked.lock().is_empty(), "no address is taken for a name");
    for url in ["http://localhost/", "http://LOCALHOST./", "http://metadata.google.internal/", "http://example.org/"] {
        assert_eq!(code(&web, url).await, "address_refused", "{url}");
    }
    assert_eq!(names.asked.lock().len(), 4);
}

#[tokio::test]
async fn what_is_no_plain_url_is_refused_before_anything_is_resolved() {
    let names = Names::new(&[&["93.184.216.34:80"]]);
    let web = web("{}", &names);
    for url in [
        "",
        "x",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.org/",
        "gopher://example.org:70/_x",
        "data:text/plain,x",
        "javascript:alert(1)",
        "unix:///run/docker.sock",
        "http://",
        "http:///",
        "https://user:pass@example.org/",
        "https://user@example.org/",
        "http://:pass@example.org/",
        "http://example.org@127.0.0.1/",
        "http://256.1.1.1/",
        "http://[::1/",
        "http://exa mple.org/",
        "http://example.org:99999/",
    ] {
        assert_eq!(code(&web, url).await, "invalid_url", "{url}");
    }
    assert!(names.asked.lock().is_empty());
}

#[tokio::test]
async fn one_private_address_among_public_ones_is_enough_to_refuse() {
    for inside in ["10.0.0.1:80", "127.0.0.1:80", "169.254.169.254:80", "[fd00::1]:80", "[::ffff:127.0.0.1]:80"] {
        let names = Names::new(&[&["93.184.216.34:80", inside, "[2606:2800::1]:80"]]);
        assert_eq!(code(&web("{}", &names), "http://example.org/").await, "address_refused", "{inside}");
    }
    let nobody = Names::new(&[&[]]);
    assert_eq!(code(&web("{}", &nobody), "http://example.org/").await, "dns");
    assert_eq!(code(&web("{}", &Arc::new(Names::default())), "http://example.org/").await, "dns");
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_held_to_its_first_word() {
    let server = Server::start([page("here")]).await;
    // The second answer would be another server: nobody asks for it.
    let names = Names::new(&[&[&server.address.to_string()], &["127.0.0.1:1"]]);
    let web = web(&server.allowed(), &names);
    let found = web.get(&format!("http://rebind.example:{}/", server.address.port())).await.unwrap();
    assert_eq!((found.text().as_str(), found.status), ("here", 200));
    assert_eq!(*names.asked.lock(), ["rebind.example"]);
    assert!(server.heads.lock()[0].contains(&format!("host: rebind.example:{}", server.address.port())));
}

#[tokio::test]
async fn a_redirect_is_judged_like_the_first_url() {
    let inside = Server::start([page("secret")]).await;
    for target in [
        format!("http://{}/", inside.address),
        format!("//{}/", inside.address),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://2130706433/".to_owned(),
        "http://rebind.example/".to_owned(),
    ] {
        let server = Server::start([leads_to(&target)]).await;
        // Asked again on the way, the name has become another.
        let names = Names::new(&[&[&server.address.to_string()], &["10.0.0.1:80"]]);
        let web = web(&server.allowed(), &names);
        let url = format!("http://rebind.example:{}/", server.address.port());
        assert_eq!(code(&web, &url).await, "address_refused", "{target}");
    }
    assert!(inside.heads.lock().is_empty(), "nobody came");
    for (target, expected) in
        [("file:///etc/passwd", "invalid_url"), ("http://u:p@127.0.0.1/", "invalid_url"), ("http://[", "invalid_url")]
    {
        let server = Server::start([leads_to(target)]).await;
        let web = web(&server.allowed(), &Names::new(&[]));
        assert_eq!(code(&web, &format!("http://{}/", server.address)).await, expected, "{target}");
    }
}

#[tokio::test]
async fn redirects_lead_on_but_not_for_ever() {
    let server = Server::start([leads_to("/a?b=c#d"), leads_to("next"), page("there")]).await;
    let allowed = web(&server.allowed(), &Names::new(&[]));
    let found = allowed.get(&format!("http://{}/x/", server.address)).await.unwrap();
    assert_eq!((found.url.path(), found.text().as_str()), ("/next", "there"));
    assert!(server.heads.lock()[1].starts_with("GET /a?b=c HTTP/1.1"));
    let server = Server::start((0..9).map(|_| leads_to("/"))).await;
    let allowed = web(&server.allowed(), &Names::new(&[]));
    assert_eq!(code(&allowed, &format!("http://{}/", server.address)).await, "too_many_redirects");
    assert_eq!(server.heads.lock().len(), 6);
}

#[tokio::test]
async fn only_texts_are_read_and_no_more_of_them_than_is_allowed() {
    let reply =
        |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}content-length: {}\r\n\r\n{body}", body.len());
    for (head, expected) in [
        ("content-type: application/pdf\r\n", "unsupported_content_type"),
        ("content-type: image/png\r\n", "unsupported_content_type"),
        ("content-type: application/octet-stream\r\n", "unsupported_content_type"),
        ("content-type: text/html\r\ncontent-encoding: gzip\r\n", "unsupported_content_encoding"),
        ("", "unsupported_content_type"),
    ] {
        let server = Server::start([reply(head, "a\0b")]).await;
        let web = web(&server.allowed(), &Names::new(&[]));
        assert_eq!(code(&web, &format!("http://{}/", server.address)).await, expected, "{head:?}");
    }
    let server = Server::start([reply("content-type: text/plain\r\n", &"x".repeat(5_000))]).await;
    let config = format!("{{\"allow\": [\"{}\"], \"max_bytes\": 2000}}", server.address);
    let found = web(&config, &Names::new(&[])).get(&format!("http://{}/", server.address)).await.unwrap();
    assert_eq!((found.body.len(), found.is_cut), (2_000, true));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let web = web("{\"allow\": [\"127.0.0.1\"]}", &Names::new(&[]));
    assert_eq!(code(&web, &format!("http://{closed}/")).await, "unreachable");
}

#[test]
fn texts_are_read_in_their_own_encoding() {
    let text = |media_type: &str, charset: Option<&str>, body: &[u8]| {
        let url = Url::parse("http://h/").unwrap();
        let charset = charset.map(str::to_owned);
        Page { url, status: 200, media_type: media_type.into(), body: body.to_vec(), is_cut: false, charset }.text()
    };
    assert_eq!(text("text/plain", None, "é".as_bytes()), "é");
    assert_eq!(text("text/plain", Some("iso-8859-1"), b"\xe9"), "é");
    assert_eq!(text("text/html", None, b"<meta charset=\"windows-1251\">\xcf"), "<meta charset=\"windows-1251\">П");
    assert_eq!(text("text/html", Some("nonsense"), "é".as_bytes()), "é");
    assert_eq!(text("text/plain", None, b"\xff\xfee\0"), "e");
    assert_eq!(text("text/plain", None, b"\xff"), "\u{fffd}");
}

async fn searched(kind: &str, extra: &str, answer: String) -> (Result<Vec<Hit>, ToolFailure>, String) {
    let server = Server::start([answer]).await;
    let config = format!("{{\"search\": {{\"type\": \"{kind}\", \"url\": \"http://{}\"{extra}}}}}", server.address);
    let hits = web(&config, &Names::new(&[])).search("a & b", 2).await;
    let head = server.heads.lock()[0].clone();
    (hits, head)
}

fn json(body: &str) -> String {
    page(body).replace("text/html", "application/json")
}

#[tokio::test]
async fn every_engine_is_asked_in_its_own_way_and_answers_the_same() {
    let result = r#"{"title": "A <b>b</b>", "url": "https://a.example/", "content": "It&#39;s\n a"}"#;
    let no_link = r#"{"title": "x", "url": "javascript:x"}"#;
    let results = format!("[{result}, {no_link}, {result}, {result}]");
    let expected = || {
        let hit = || Hit { title: "A b".into(), url: "https://a.example/".into(), snippet: "It's a".into() };
        vec![hit(), hit()]
    };
    let plain = json(&format!("{{\"results\": {results}}}"));
    let (hits, head) = searched("searxng", "", plain.clone()).await;
    assert_eq!(hits.unwrap(), expected());
    assert!(head.starts_with("GET /search?q=a+%26+b&format=json HTTP/1.1"), "{head}");
    let key = ", \"api_key\": \"k1\"";
    let (hits, head) = searched("tavily", key, plain).await;
    assert_eq!(hits.unwrap(), expected());
    assert!(
        head.contains("authorization: Bearer k1") && head.ends_with(r#"{"query":"a & b","max_results":2}"#),
        "{head}"
    );
    let brave = json(&format!("{{\"web\": {{\"results\": {}}}}}", results.replace("content", "description")));
    let (hits, head) = searched("brave", key, brave).await;
    assert_eq!(hits.unwrap(), expected());
    assert!(head.starts_with("GET /?q=a+%26+b&count=2 ") && head.contains("x-subscription-token: k1"), "{head}");
    let (hits, _) = searched("brave", key, json("{}")).await;
    assert_eq!(hits.unwrap(), []);
}

#[tokio::test]
async fn what_a_search_lacks_is_told() {
    let names = Names::new(&[]);
    let failure = web("{}", &names).search("x", 1).await.unwrap_err();
    assert_eq!(failure.code.as_deref(), Some("search_not_configured"));
    assert!(
        ["searxng", "brave", "tavily"].iter().all(|option| failure.message.contains(option)),
        "{}",
        failure.message
    );
    let (failed, _) = searched("searxng", "", "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno".into()).await;
    let failed = failed.unwrap_err();
    assert!(failed.message.contains("403") && failed.message.contains("search.formats") && !failed.retryable);
    let (failed, _) = searched("searxng", "", "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".into()).await;
    assert!(failed.unwrap_err().retryable);
    let (failed, _) = searched("searxng", "", page("<html>")).await;
    assert!(failed.unwrap_err().message.contains("as JSON"));
    let keyless =
        r#"{"search": {"type": "brave", "api_key": {"env": "PAR_TEST_NO_SUCH_KEY"}, "url": "http://127.0.0.1:1"}}"#;
    assert!(web(keyless, &names).search("x", 1).await.unwrap_err().message.contains("PAR_TEST_NO_SUCH_KEY"));
}
