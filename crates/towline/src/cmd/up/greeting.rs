//! What `towline up` says when it runs: where it is, how to call it, how another machine joins.

use std::path::Path;

use serde_json::{Value, json};
use towline_control::Bootstrap;
use towline_tunnel::message::EngineStatus;

/// Everything that is said.
pub struct Greeting<'a> {
    /// The program's version.
    pub version: &'a str,
    /// Where the server is, as this machine sees it.
    pub url: &'a str,
    /// Where the server is, as other machines see it.
    pub url_for_others: &'a str,
    /// Whether other machines cannot reach it at all.
    pub is_local_only: bool,
    /// The first keys, if their file is still there.
    pub bootstrap: Option<&'a Bootstrap>,
    /// Where that file is, or was.
    pub bootstrap_path: &'a Path,
    /// The data directory, where commands have to be told of it.
    pub data_dir: Option<&'a Path>,
    /// Whether the keys were made just now: they are shown this once.
    pub is_first: bool,
    /// What runs containers here.
    pub engine: &'a EngineStatus,
}

impl Greeting<'_> {
    /// For people. The call works as it is pasted, each time: later starts take the key from the file instead of showing it.
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("Towline {} runs at {}", self.version, self.url), String::new()];
        let mut say = |label: &str, text: String| lines.push(format!("  {label:<9} {text}"));
        if let Some(bootstrap) = self.bootstrap.filter(|_| self.is_first) {
            say("Key", bootstrap.api_key.expose().clone());
            say("", format!("shown this once; it and the owner's sign-in are in {}", self.bootstrap_path.display()));
        }
        say("Call", self.call());
        self.join().into_iter().enumerate().for_each(|(index, line)| say(if index == 0 { "Join" } else { "" }, line));
        match self.engine {
            EngineStatus::Ready { version } => say("Engine", version.clone()),
            EngineStatus::Unavailable { reason } => say("Engine", format!("none yet: {reason}")),
        }
        let at = self.data_dir.map(|dir| format!(" --data-dir {}", shell_quoted(&dir.display().to_string())));
        let at = at.unwrap_or_default();
        say("Next", format!("towline service create hello --image IMAGE{at}"));
        say("", format!("towline service deploy hello{at}"));
        lines.join("\n")
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let api_key = self.bootstrap.filter(|_| self.is_first).map(|bootstrap| bootstrap.api_key.expose());
        json!({
            "url": self.url,
            "url_for_others": self.url_for_others,
            "bootstrap_file": self.bootstrap.map(|_| self.bootstrap_path),
            "api_key": api_key,
            "engine": self.engine,
        })
    }

    fn call(&self) -> String {
        let url = format!("{}/api/v1/r/containers", self.url);
        match self.bootstrap {
            Some(bootstrap) if self.is_first => {
                format!("curl -H 'Authorization: Bearer {}' {url}", bootstrap.api_key.expose())
            }
            Some(_) => format!("curl -H \"Authorization: Bearer $({})\" {url}", self.key_from_file("api_key")),
            None => format!(
                "curl -H \"Authorization: Bearer $TOWLINE_KEY\" {url}   # after TOWLINE_KEY=$(towline key create --name mine)"
            ),
        }
    }

    fn join(&self) -> Vec<String> {
        let key = match self.bootstrap {
            Some(bootstrap) if self.is_first => bootstrap.agent_key.expose().clone(),
            Some(_) => format!("$({})", self.key_from_file("agent_key")),
            None => "$(towline key create --kind agent --name that-machine)".to_owned(),
        };
        if self.is_first {
            let mut lines = vec![format!("towline agent --server {} --key {key}", self.url_for_others)];
            if self.is_local_only {
                lines.push(
                    "on another machine, once this one is reachable: start with --listen 0.0.0.0:7070".to_owned(),
                );
            }
            return lines;
        }
        // The key is on this machine, so the line is made here, to be pasted there.
        let mut lines = vec![format!("echo towline agent --server {} --key \"{key}\"", self.url_for_others)];
        lines.push(if self.is_local_only {
            "prints the line for another machine; it must reach this one: start with --listen 0.0.0.0:7070".to_owned()
        } else {
            "prints the line for another machine".to_owned()
        });
        lines
    }

    fn key_from_file(&self, field: &str) -> String {
        let path = shell_quoted(&self.bootstrap_path.display().to_string());
        format!("sed -n 's/.*\"{field}\": *\"\\([^\"]*\\)\".*/\\1/p' {path}")
    }
}

/// A word that a shell takes as it is.
fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use towline_model::{Secret, TeamId};

    use super::*;

    fn bootstrap() -> Bootstrap {
        Bootstrap {
            url: "http://127.0.0.1:7070".to_owned(),
            team_id: TeamId::generate(),
            email_address: "owner@towline.local".to_owned(),
            user_password: Secret::new("pw".to_owned()),
            api_key: Secret::new("sk-1".to_owned()),
            agent_key: Secret::new("ak-1".to_owned()),
        }
    }

    fn greeting<'a>(bootstrap: Option<&'a Bootstrap>, path: &'a Path, engine: &'a EngineStatus) -> Greeting<'a> {
        Greeting {
            version: "0.1.0",
            url: "http://127.0.0.1:7070",
            url_for_others: "http://127.0.0.1:7070",
            is_local_only: true,
            bootstrap,
            bootstrap_path: path,
            data_dir: Some(Path::new("/data")),
            is_first: true,
            engine,
        }
    }

    #[test]
    fn the_first_start_shows_the_keys() {
        let (bootstrap, path) = (bootstrap(), Path::new("/data/bootstrap.json"));
        let engine = EngineStatus::Ready { version: "Docker 28.2.2".to_owned() };
        insta::assert_snapshot!(greeting(Some(&bootstrap), path, &engine).to_text(), @"
        Towline 0.1.0 runs at http://127.0.0.1:7070

          Key       sk-1
                    shown this once; it and the owner's sign-in are in /data/bootstrap.json
          Call      curl -H 'Authorization: Bearer sk-1' http://127.0.0.1:7070/api/v1/r/containers
          Join      towline agent --server http://127.0.0.1:7070 --key ak-1
                    on another machine, once this one is reachable: start with --listen 0.0.0.0:7070
          Engine    Docker 28.2.2
          Next      towline service create hello --image IMAGE --data-dir /data
                    towline service deploy hello --data-dir /data
        ");
    }

    #[test]
    fn later_starts_show_no_key_and_still_say_what_works_as_pasted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's here/bootstrap.json");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{\n  \"agent_key\": \"ak-1\",\n  \"api_key\": \"sk-1\"\n}\n").unwrap();
        let (bootstrap, engine) = (bootstrap(), EngineStatus::Unavailable { reason: "install Docker".to_owned() });
        let greeting = Greeting { is_first: false, ..greeting(Some(&bootstrap), &path, &engine) };
        let text = greeting.to_text();
        assert!(!text.contains("sk-1") && !text.contains("ak-1"), "{text}");
        assert!(text.contains("none yet: install Docker"), "{text}");
        let call = greeting.call().replacen("curl", "printf '%s|'", 1);
        let printed = Command::new("sh").args(["-c", &call]).output().unwrap().stdout;
        let expected = "-H|Authorization: Bearer sk-1|http://127.0.0.1:7070/api/v1/r/containers|";
        assert_eq!(String::from_utf8(printed).unwrap(), expected);
        let printed = Command::new("sh").args(["-c", &greeting.join()[0]]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(printed).unwrap(), "towline agent --server http://127.0.0.1:7070 --key ak-1\n");
        assert_eq!(greeting.to_json()["api_key"], Value::Null);
    }

    #[test]
    fn without_the_file_it_says_how_to_make_keys() {
        let engine = EngineStatus::Ready { version: "Docker".to_owned() };
        let text = greeting(None, Path::new("/data/bootstrap.json"), &engine).to_text();
        assert!(text.contains("towline key create --name mine") && text.contains("--kind agent"), "{text}");
    }
}
