//! The customer channel manager, which Facebook, Viber and Twilio call.
//!
//! Webhooks are signed over their raw bytes, so the answer contains the signed parts (body digest,
//! target, Host) as they arrived. The subscription handshake is answered as the platforms require,
//! with the challenge, byte for byte, and nothing else.

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, json};

use crate::demo::echo::{self, EchoedRequest};
use crate::demo::reply::{self, ComponentBodyError, ComponentReply};

const RECEIVERS: &[&str] = &[
    "/webhook",
    "/webhook/twitter",
    "/360notifications",
    "/viber-message/receive",
    "/msg-client/receive",
    "/msg-client/delivery-notification",
];

pub(crate) async fn answer(
    seen: EchoedRequest,
    request: Request<Incoming>,
) -> Result<ComponentReply, ComponentBodyError> {
    let is_receiver = RECEIVERS.contains(&request.uri().path());
    if is_receiver && request.method() == Method::GET {
        let challenge = echo::parameter(request.uri().query(), "hub.challenge");
        if let Some(challenge) = challenge {
            return Ok(reply::text(StatusCode::OK, challenge));
        }
    }
    let mut also = Map::new();
    also.insert("received".to_owned(), json!(is_receiver && request.method() == Method::POST));
    echo::answer_also(seen, request, also).await
}
