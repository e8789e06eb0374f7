//! Affinity (contract §6): a caller that wants to come back to the instance that has served it.
//!
//! * A program sends `X-Towline-Affinity: soft` or `strict`, reads `X-Towline-Instance` in the answer and sends it with its
//!   next requests. `soft` prefers that instance; `strict` has nothing but that one.
//! * A browser opts in with a cookie `towline_affinity=soft` or `strict`, set by the page or by the container, and gets the
//!   cookie `towline_instance` for the service's path. Both cookies are for the gateway and do not reach the container.
//!
//! Whoever asks for nothing gets nothing: no header and no cookie is added to a container's answer then.

use http::{HeaderName, HeaderValue, header};
use towline_model::InstanceId;

use crate::{
    error::GatewayError,
    fields::{Headers, Value},
};

const X_TOWLINE_AFFINITY: HeaderName = HeaderName::from_static("x-towline-affinity");
const X_TOWLINE_INSTANCE: HeaderName = HeaderName::from_static("x-towline-instance");
const AFFINITY_COOKIE: &[u8] = b"towline_affinity";
const INSTANCE_COOKIE: &[u8] = b"towline_instance";

/// Which instances may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    /// Any.
    Any,
    /// This one if it can take the request, else any.
    Prefer(InstanceId),
    /// This one.
    Insist(InstanceId),
}

/// What a caller has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affinity {
    strict: bool,
    instance: Option<InstanceId>,
    by_cookie: bool,
}

impl Affinity {
    /// What the header fields ask for.
    pub(crate) fn of(headers: &impl Headers) -> Result<Option<Self>, GatewayError> {
        let Some(mode) = only(headers, &X_TOWLINE_AFFINITY)? else { return Ok(None) };
        let strict = match mode.as_bytes() {
            b"soft" => false,
            b"strict" => true,
            _ => return Err(malformed("X-Towline-Affinity must be `soft` or `strict`")),
        };
        let instance = match only(headers, &X_TOWLINE_INSTANCE)? {
            None => None,
            Some(value) => {
                let id = instance_of(value.as_bytes());
                Some(id.ok_or_else(|| malformed("X-Towline-Instance must be a value that an answer had there"))?)
            }
        };
        Ok(Some(Self { strict, instance, by_cookie: false }))
    }

    /// Takes the gateway's cookies out of a request, and says what they ask for. A browser cannot do anything about a
    /// value that is not understood, so that one asks for nothing.
    pub(crate) fn take_cookies(headers: &mut impl Headers) -> Option<Self> {
        let lines = headers.get_all(header::COOKIE);
        let ours: Vec<(&[u8], &[u8])> = lines.flat_map(|line| pairs(line).filter_map(our_cookie)).collect();
        if ours.is_empty() {
            return None;
        }
        let strict = ours.iter().find_map(|(name, value)| match (*name == AFFINITY_COOKIE, *value) {
            (true, b"soft") => Some(false),
            (true, b"strict") => Some(true),
            _ => None,
        });
        // The most specific path comes first (RFC 6265 §5.4).
        let instance =
            ours.iter().find_map(|(name, value)| if *name == INSTANCE_COOKIE { instance_of(value) } else { None });
        let others: Vec<HeaderValue> = headers.get_all(header::COOKIE).filter_map(without_ours).collect();
        headers.remove(header::COOKIE);
        for line in others {
            headers.append(header::COOKIE, line);
        }
        strict.map(|strict| Self { strict, instance, by_cookie: true })
    }

    pub(crate) fn preference(asked: Option<Self>) -> Preference {
        match asked {
            Some(Self { strict: true, instance: Some(id), .. }) => Preference::Insist(id),
            Some(Self { strict: false, instance: Some(id), .. }) => Preference::Prefer(id),
            _ => Preference::Any,
        }
    }

    /// Tells the caller which instance has answered. `prefix` is the service's path without the last slash.
    pub(crate) fn tell(self, headers: &mut impl Headers, instance: InstanceId, prefix: &HeaderValue) {
        if !self.by_cookie {
            if let Ok(value) = HeaderValue::try_from(instance.to_string()) {
                headers.insert(X_TOWLINE_INSTANCE, value);
            }
        } else if self.instance != Some(instance)
            && let Some(cookie) = cookie(&instance.to_string(), prefix, "")
        {
            headers.append(header::SET_COOKIE, cookie);
        }
    }

    /// Makes a browser forget an instance that is gone, so that its next request is served by another.
    pub(crate) fn forget(self, error: GatewayError, prefix: &HeaderValue) -> GatewayError {
        match error {
            GatewayError::InstanceUnavailable { slug, instance, gone: true, .. } if self.by_cookie => {
                let forget = cookie("", prefix, "; Max-Age=0");
                GatewayError::InstanceUnavailable { slug, instance, gone: true, forget }
            }
            other => other,
        }
    }
}

/// The cookie that a browser sends back to this service and to no other.
fn cookie(value: &str, prefix: &HeaderValue, more: &str) -> Option<HeaderValue> {
    // A prefix that a proxy in front has added could hold anything.
    let prefix = prefix.to_str().ok().filter(|prefix| !prefix.contains([';', ',']))?;
    let text = format!("towline_instance={value}; Path={prefix}/; HttpOnly; SameSite=Lax{more}");
    HeaderValue::try_from(text).ok()
}

fn only<'a>(headers: &'a impl Headers, name: &HeaderName) -> Result<Option<Value<'a>>, GatewayError> {
    let mut values = headers.get_all(name);
    let first = values.next();
    if values.next().is_some() {
        return Err(malformed("X-Towline-Affinity and X-Towline-Instance are sent once"));
    }
    Ok(first)
}

fn instance_of(value: &[u8]) -> Option<InstanceId> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn pairs(line: Value<'_>) -> impl Iterator<Item = &[u8]> + Clone {
    line.as_bytes().split(|&byte| byte == b';')
}

fn our_cookie(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|&byte| byte == b'=')?;
    let name = pair[..at].trim_ascii();
    [AFFINITY_COOKIE, INSTANCE_COOKIE].contains(&name).then(|| (name, pair[at + 1..].trim_ascii()))
}

/// A line of cookies without ours; `None` when nothing is left of it.
fn without_ours(line: Value<'_>) -> Option<HeaderValue> {
    if pairs(line).all(|pair| our_cookie(pair).is_none()) {
        return Some(line.to_value());
    }
    let others: Vec<&[u8]> = pairs(line).filter(|pair| our_cookie(pair).is_none()).collect();
    let joined = others.join(&b';');
    let left = joined.trim_ascii_start();
    if left.is_empty() { None } else { HeaderValue::from_bytes(left).ok() }
}

fn malformed(message: &str) -> GatewayError {
    GatewayError::MalformedRequest(message.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn header_fields_say_what_is_asked_for() {
        let id = InstanceId::generate();
        let text = id.to_string();
        for (mode, instance, expected) in [
            ("soft", None, Preference::Any),
            ("strict", None, Preference::Any),
            ("soft", Some(&text), Preference::Prefer(id)),
            ("strict", Some(&text), Preference::Insist(id)),
        ] {
            let mut headers = map(&[("x-towline-affinity", mode)]);
            if let Some(instance) = instance {
                headers.insert("x-towline-instance", HeaderValue::from_str(instance).unwrap());
            }
            let asked = Affinity::of(&headers).unwrap();
            assert_eq!((asked.is_some(), Affinity::preference(asked)), (true, expected), "{mode} {instance:?}");
        }
        assert_eq!(
            Affinity::of(&map(&[("x-towline-instance", &text)])).unwrap(),
            None,
            "an instance alone asks nothing"
        );
        for bad in [
            &[("x-towline-affinity", "hard")][..],
            &[("x-towline-affinity", "")],
            &[("x-towline-affinity", "soft"), ("x-towline-affinity", "soft")],
            &[("x-towline-affinity", "soft"), ("x-towline-instance", "x")],
        ] {
            assert!(Affinity::of(&map(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn our_cookies_are_taken_out_and_no_others() {
        let id = InstanceId::generate().to_string();
        let ours = format!("towline_instance={id}");
        for (lines, left, asks) in [
            (vec!["a=b;c=\"d\"; ;".to_owned(), "x".to_owned()], vec!["a=b;c=\"d\"; ;", "x"], false),
            (vec!["towline_affinity=soft".to_owned()], vec![], true),
            (vec![format!("a=b; towline_affinity=strict;c=d; {ours}")], vec!["a=b;c=d"], true),
            (vec![format!("{ours}; a=b")], vec!["a=b"], false),
            (vec!["towline_affinity=hard; a=towline_affinity=soft".to_owned()], vec!["a=towline_affinity=soft"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(Affinity::take_cookies(&mut headers).is_some(), asks, "{lines:?}");
            assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), left, "{lines:?}");
        }
    }

    #[test]
    fn a_browser_is_told_only_news() {
        let (old, new) = (InstanceId::generate(), InstanceId::generate());
        let prefix = HeaderValue::from_static("/api/v1/r/containers/hello");
        let asked = Affinity { strict: false, instance: Some(old), by_cookie: true };
        let told = |instance, prefix: &HeaderValue| {
            let mut headers = HeaderMap::new();
            asked.tell(&mut headers, instance, prefix);
            headers.get(header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told(old, &prefix), None);
        let expected = format!("towline_instance={new}; Path=/api/v1/r/containers/hello/; HttpOnly; SameSite=Lax");
        assert_eq!(told(new, &prefix), Some(expected));
        assert_eq!(told(new, &HeaderValue::from_static("/x; Domain=evil")), None);
    }
}
