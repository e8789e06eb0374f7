//! Image references: `[registry[:port]/]path[:tag][@digest]`, as in the distribution project's reference grammar.

/// Whether a text is an image reference that a container engine accepts. At most 512 characters.
#[must_use]
pub fn is_image_reference(text: &str) -> bool {
    if text.is_empty() || text.len() > 512 || !text.is_ascii() {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return false;
    }
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    tag.is_none_or(is_tag) && is_name(name)
}

fn is_name(name: &str) -> bool {
    let mut parts: Vec<_> = name.split('/').collect();
    let has_registry = parts.len() > 1
        && (parts[0].contains(['.', ':'])
            || parts[0] == "localhost"
            || parts[0].chars().any(|c| c.is_ascii_uppercase()));
    if has_registry && !is_registry(parts.remove(0)) {
        return false;
    }
    parts.iter().all(|part| is_path_component(part))
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0))
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(first)
        && alphanumeric(last)
        && part
            .split(|c: char| alphanumeric(c as u8))
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 128
        && !matches!(bytes[0], b'.' | b'-')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'_' | b'-'))
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::is_image_reference;

    #[test]
    fn accepts_what_engines_accept() {
        for good in [
            "nginx",
            "nginx:1.27",
            "towline-demo:latest",
            "library/redis",
            "ghcr.io/org/app_name.x:v1.2-rc.1",
            "localhost:5000/demo",
            "127.0.0.1:5000/a/b__c:tag",
            "registry.example.com/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "a--b/c:_x",
        ] {
            assert!(is_image_reference(good), "{good}");
        }
    }

    #[test]
    fn refuses_what_engines_refuse() {
        for bad in [
            "",
            " ",
            "UPPER",
            "a:b:c",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a@",
            "a@sha256:123",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:.tag",
            "http://host/a",
            "host:99999/a",
            "a\n",
            "ä",
            "a:-x",
            "reg_istry.io:1/a",
        ] {
            assert!(!is_image_reference(bad), "{bad:?}");
        }
    }
}
