//! `leeway events`: the audit trail, and the same live.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;
use leeway_controller::io::web::resource::event::{Event, EventList, Frame};
use leeway_protocol::time::Timestamp;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Style, pad, putln};

/// `leeway events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Go on with new entries as they come.
    #[arg(short, long)]
    pub follow: bool,
    /// Start after this entry; without it, the newest are shown.
    #[arg(long)]
    pub since: Option<u64>,
    /// Only kinds that begin so, such as `rollout`.
    #[arg(long)]
    pub kind: Option<String>,
    /// Only about this, such as `rollouts/rain-2`.
    #[arg(long)]
    pub subject: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 50)]
    pub limit: u64,
}

/// Waits between two attempts to connect again.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts before giving up: five minutes of a restarting controller.
const MAX_RETRIES: u32 = 300;
/// Silence after which a connection is taken for dead; a bookmark comes every 20 seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// Run it.
pub fn run(args: &Events, context: &Context) -> Outcome {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.since.map(|s| ("since", s.to_string())));
    query.extend(args.kind.clone().map(|k| ("kind", k)));
    query.extend(args.subject.clone().map(|s| ("subject", s)));
    let list: EventList = context.client.read(&format!("/api/v1/events?{}", crate::client::query(&query)))?;
    for event in &list.items {
        show(context, event)?;
    }
    if !args.follow {
        if !context.json {
            eprintln!("{}", context.style.dim(&list.chain.sentence));
        }
        return Ok(());
    }
    follow(context, list.newest_seq, |event| {
        let wanted = args.kind.as_ref().is_none_or(|k| event.kind.starts_with(k.as_str()))
            && args.subject.as_ref().is_none_or(|s| event.subject == *s);
        if wanted { show(context, event) } else { Ok(()) }
    })
}

fn show(context: &Context, event: &Event) -> Outcome {
    if context.json {
        return output::json_line(event);
    }
    putln!("{}", line(&context.style, event));
    Ok(())
}

/// One entry on one line.
pub fn line(style: &Style, e: &Event) -> String {
    let at: String = clock(e.at);
    format!(
        "{} {} {} {}",
        style.dim(&format!("{:>6}", e.seq)),
        style.dim(&at),
        style.tint(e.level, style.sign(e.level)),
        style.plain(&format!("{} {}", pad(&e.subject, 24), e.sentence))
    )
}

fn clock(at: Timestamp) -> String {
    at.to_string().chars().skip(11).take(8).collect()
}

/// Call `each` for every entry after `since`, for as long as the controller can be reached; resumes where it was cut off.
pub fn follow(context: &Context, mut since: u64, mut each: impl FnMut(&Event) -> Outcome) -> Outcome {
    let mut retries = 0;
    loop {
        match connect(&context.client, since) {
            Ok(mut socket) => {
                retries = 0;
                drain(&mut socket, &mut since, &mut each)?;
                eprintln!("{}", context.style.dim(&format!("the stream was cut off after entry {since}; connecting again")));
            }
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) if retries >= MAX_RETRIES => return Err(failure),
            Err(_) => retries += 1,
        }
        std::thread::sleep(RETRY);
    }
}

/// Read until the connection ends; errors of `each` end everything.
fn drain(socket: &mut WebSocket<impl Read + Write>, since: &mut u64, each: &mut impl FnMut(&Event) -> Outcome) -> Outcome {
    while let Ok(message) = socket.read() {
        let Message::Text(text) = message else { continue };
        match serde_json::from_str::<Frame>(&text) {
            Ok(Frame::Event { seq, event }) if seq > *since => {
                *since = seq;
                each(&event)?;
            }
            Ok(Frame::Gone { oldest_seq }) => {
                eprintln!("entries {} to {} are no longer kept", *since + 1, oldest_seq.saturating_sub(1));
                *since = oldest_seq.saturating_sub(1);
            }
            // A newer controller may send frames this program does not know.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// A connection, with or without TLS.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(client: &Client, since: u64) -> Outcome<WebSocket<Box<dyn Stream>>> {
    let host = client.base().trim_start_matches("http://").trim_start_matches("https://").to_owned();
    let tls = client.tls();
    let (scheme, port) = if tls.is_some() { ("wss", 443) } else { ("ws", 80) };
    let mut request = format!("{scheme}://{host}/api/v1/stream?since={since}").into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("leeway.v1"));
    if let Some(token) = client.token() {
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    }
    let name = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((name.as_str(), request.uri().port_u16().unwrap_or(port))).map_err(|e| {
        Failure::new(format!("the controller at {} cannot be reached: {e}", client.base()))
            .code(7)
            .help("start it with `leeway serve`, or name another one with --url or LEEWAY_URL")
    })?;
    stream.set_read_timeout(Some(SILENCE))?;
    let stream: Box<dyn Stream> = match tls {
        Some(tls) => Box::new(rustls::StreamOwned::new(rustls::ClientConnection::new(tls, name.try_into()?)?, stream)),
        None => Box::new(stream),
    };
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            let status = answer.status().as_u16();
            Err(Failure::new(format!("the controller refused the stream with status {status}"))
                .code(if status == 401 { 4 } else { 1 })
                .help("give the token that `leeway serve` wrote to admin.token, with --token or LEEWAY_TOKEN"))
        }
        Err(e) => Err(Failure::new(format!("opening the stream: {e}")).code(7)),
    }
}
