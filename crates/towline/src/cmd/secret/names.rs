//! Secrets by their names: definitions refer to ids, people and files to names.

use serde_json::{Map, Value};
use towline_model::SecretId;

use crate::{
    client::{Client, types::text},
    failure::Failure,
};

/// Fields of a definition that hold a secret's id, and how a file may call them to give a name.
const FIELDS: [(&str, &str); 2] =
    [("registry_auth_secret_id", "registry_auth_secret"), ("external_auth_credential_id", "external_auth_secret")];

/// Looks names up; the server is asked once, and only when there is a name.
pub struct Names<'c> {
    client: &'c Client,
    known: Option<Vec<Value>>,
}

impl<'c> Names<'c> {
    /// Names of the client's team.
    pub const fn new(client: &'c Client) -> Self {
        Self { client, known: None }
    }

    /// The id of the secret of that name or id.
    ///
    /// # Errors
    /// When there is no such name, or the server cannot be asked.
    pub async fn id(&mut self, wanted: &str) -> Result<SecretId, Failure> {
        if let Ok(id) = wanted.parse() {
            return Ok(id);
        }
        let known = match self.known.take() {
            Some(known) => known,
            None => self.client.list("/secrets", "secret_list", &[]).await?,
        };
        let known = self.known.insert(known);
        let found = known.iter().find(|secret| secret["name"] == wanted);
        found.and_then(|secret| text(secret, "id").parse().ok()).ok_or_else(|| {
            Failure::new(format!("there is no secret with the name {wanted:?} in this team"))
                .hint("`towline secret list` shows those that there are")
        })
    }

    /// Puts ids in the place of names, wherever a definition refers to a secret: `secret: NAME` in an entry of
    /// `env_config`, `registry_auth_secret: NAME`, or a name where an id belongs.
    ///
    /// # Errors
    /// As [`Names::id`], and when a secret is named in two ways at once.
    pub async fn put_ids(&mut self, definition: &mut Map<String, Value>) -> Result<(), Failure> {
        if let Some(Value::Array(entries)) = definition.get_mut("env_config") {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                self.put_id(entry, "secret_id", "secret").await?;
            }
        }
        for (field, by_name) in FIELDS {
            self.put_id(definition, field, by_name).await?;
        }
        Ok(())
    }

    async fn put_id(&mut self, fields: &mut Map<String, Value>, field: &str, by_name: &str) -> Result<(), Failure> {
        if let Some(name) = fields.remove(by_name) {
            if fields.contains_key(field) {
                return Err(Failure::usage(format!("give {field} or {by_name}, not both")));
            }
            fields.insert(field.to_owned(), name);
        }
        if let Some(Value::String(wanted)) = fields.get(field) {
            let id = self.id(wanted).await?;
            fields.insert(field.to_owned(), Value::String(id.to_string()));
        }
        Ok(())
    }
}
