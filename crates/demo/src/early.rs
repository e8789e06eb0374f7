//! `GET /early-hints?n=&delay_ms=`: interim answers (103) before the final one.
//!
//! hyper has no way to send an interim answer, so they are written past it ([`crate::tap::Conn::send_verbatim`]). That works on HTTP/1 only: on
//! HTTP/2 the final answer comes alone, and says so.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::body::json_ok;
use crate::call::{Call, Reply};
use crate::query::pause;

/// Sends `n` interim answers (default 1), each followed by `delay_ms`, then 200.
pub async fn early_hints(call: Call) -> Reply {
    let wanted = call.query.number("n", 1, 0..=100)?;
    let delay = call.query.millis("delay_ms", Duration::ZERO)?;
    let sent = if call.is_http1() { wanted } else { 0 };
    for index in 0..sent {
        let head = format!("HTTP/1.1 103 Early Hints\r\nLink: </style-{index}.css>; rel=preload; as=style\r\n\r\n");
        call.conn.send_verbatim(Bytes::from(head)).await?;
        pause(delay).await;
    }
    Ok(json_ok(&json!({ "early_hints": sent })))
}
