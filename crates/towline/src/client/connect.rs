//! Decides which server is meant, and with what identity.
//!
//! In this order: a key that was given; the data directory that was named (its `bootstrap.json`); the sign-in of
//! `towline login`; the default data directory. A sign-in is only ever sent to the server that it was made with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use towline_model::{KeyKind, RawKey, Secret};
use url::Url;

use super::{
    Client, Identity, SignIn,
    bootstrap::Bootstrap,
    credentials::{Credentials, CredentialsFile, DeviceLogin},
    shown,
    sign_in::Owner,
};
use crate::{
    cli::{ClientArgs, parse_server_url},
    cmd::Context,
    failure::Failure,
};

const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";

/// The client that these options mean.
///
/// # Errors
/// When a key is mistyped, or nobody has signed in.
pub fn connect(args: &ClientArgs, context: &Context) -> Result<Client, Failure> {
    let file = credentials_file(context);
    let credentials = file.as_ref().map_or_else(|| Ok(Credentials::default()), CredentialsFile::read)?;
    if let Some(key) = given_key(args)? {
        let server = match (&args.server, &credentials.current) {
            (Some(server), _) => server.clone(),
            (None, Some(current)) => parse_stored(current)?,
            (None, None) => local(args, context)?.map_or_else(default_server, |local| Ok(local.server))?,
        };
        context.verbose(|| format!("using the given key at {}", shown(&server)));
        return Ok(Client::new(server, Identity::Key(key))?);
    }
    if args.data_dir.is_some()
        && let Some(local) = matching(args, local(args, context)?)
    {
        return local.client(context);
    }
    let server = args
        .server
        .clone()
        .map_or_else(|| credentials.current.as_deref().map(parse_stored).transpose(), |url| Ok(Some(url)))?;
    if let (Some(server), Some(file)) = (server, file)
        && let Some(client) = signed_in(&server, file, &credentials, context)?
    {
        return Ok(client);
    }
    match matching(args, local(args, context)?) {
        Some(local) => local.client(context),
        None => Err(nobody(args)),
    }
}

/// The client of a server that there is a sign-in to.
fn signed_in(
    server: &Url,
    file: CredentialsFile,
    credentials: &Credentials,
    context: &Context,
) -> Result<Option<Client>, Failure> {
    if let Some(device) = credentials.devices.get(server.as_str()) {
        context.verbose(|| format!("using this machine's key at {} ({})", shown(server), file.path().display()));
        return Ok(Some(Client::new(server.clone(), Identity::Key(device.device_key.clone()))?));
    }
    if let Some(login) = credentials.logins.get(server.as_str()) {
        context.verbose(|| {
            format!("signed in to {} as {} ({})", shown(server), login.email_address, file.path().display())
        });
        let sign_in = Box::new(SignIn::new(server.clone(), file, None));
        return Ok(Some(Client::new(server.clone(), Identity::User { sign_in, team_id: login.team_id })?));
    }
    Ok(None)
}

/// The key that an agent of this machine joins with, when this client is this machine's by `towline login`, and the key
/// came with that.
///
/// # Errors
/// When the file of sign-ins cannot be read.
pub fn companion_key(client: &Client, context: &Context) -> Result<Option<Secret<String>>, Failure> {
    let Some(file) = credentials_file(context) else { return Ok(None) };
    let device = file.read()?.devices.remove(client.base().as_str());
    let is_it = |device: &DeviceLogin| client.key().is_some_and(|key| key.expose() == device.device_key.expose());
    Ok(device.filter(is_it).and_then(|device| device.agent_key))
}

/// What the first start of that server wrote, if it is on this machine and for us to read.
///
/// # Errors
/// When the file is damaged.
pub fn bootstrap_of(server: &Url, args: &ClientArgs, context: &Context) -> Result<Option<Bootstrap>, Failure> {
    Ok(local(args, context)?.filter(|local| local.server == *server).map(|local| local.bootstrap))
}

/// Where sign-ins are kept; `None` when the user has no home.
pub fn credentials_file(context: &Context) -> Option<CredentialsFile> {
    Some(CredentialsFile::at(context.environment.config_dir()?.join("credentials.json")))
}

/// The server that is meant when somebody signs in and names none.
///
/// # Errors
/// When a stored URL is damaged.
pub fn server_to_sign_in_to(args: Option<&Url>, credentials: &Credentials) -> Result<Url, Failure> {
    match (args, &credentials.current) {
        (Some(server), _) => Ok(server.clone()),
        (None, Some(current)) => parse_stored(current),
        (None, None) => default_server(),
    }
}

/// The secret in a file that holds nothing else, without the white space around it.
///
/// # Errors
/// When the file cannot be read or is empty.
pub fn read_secret_file(path: &Path) -> Result<Secret<String>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read the secret in {}: {error}", path.display())))?;
    match text.trim() {
        "" => Err(Failure::usage(format!("{} is empty; it must hold a secret", path.display()))),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

/// A server on this machine whose data directory we may read.
struct Local {
    server: Url,
    bootstrap: Bootstrap,
    data_dir: PathBuf,
}

impl Local {
    fn client(self, context: &Context) -> Result<Client, Failure> {
        context.verbose(|| {
            let path = Bootstrap::path(&self.data_dir);
            format!("signing in to {} as {} with {}", shown(&self.server), self.bootstrap.email_address, path.display())
        });
        let owner = Owner {
            email_address: self.bootstrap.email_address,
            user_password: self.bootstrap.user_password,
            team_id: self.bootstrap.team_id,
        };
        let team_id = owner.team_id;
        // Whoever can read the password may as well keep a token beside it; so not every command signs in.
        let file = CredentialsFile::at(self.data_dir.join("sign-in.json"));
        let sign_in = Box::new(SignIn::new(self.server.clone(), file, Some(owner)));
        Ok(Client::new(self.server, Identity::User { sign_in, team_id })?)
    }
}

fn local(args: &ClientArgs, context: &Context) -> Result<Option<Local>, Failure> {
    let data_dir = args.data_dir.clone().unwrap_or_else(|| context.environment.data_dir());
    let Some(bootstrap) = Bootstrap::read(&data_dir)? else { return Ok(None) };
    let server = parse_server_url(&bootstrap.url)
        .map_err(|error| Failure::new(format!("{}: {error}", Bootstrap::path(&data_dir).display())))?;
    Ok(Some(Local { server, bootstrap, data_dir }))
}

fn matching(args: &ClientArgs, local: Option<Local>) -> Option<Local> {
    local.filter(|local| args.server.as_ref().is_none_or(|server| *server == local.server))
}

fn given_key(args: &ClientArgs) -> Result<Option<Secret<String>>, Failure> {
    let key = match (&args.key, &args.key_file) {
        (Some(key), _) => key.clone(),
        (None, Some(path)) => read_secret_file(path)?,
        (None, None) => return Ok(None),
    };
    let parsed = RawKey::parse(key.expose()).map_err(|error| Failure::usage(format!("the given key: {error}")))?;
    if parsed.kind() == KeyKind::Agent {
        return Err(Failure::usage("the given key is an agent's (ak-…), which joins agents and does nothing else")
            .hint("use an sk- or dk- key, or `towline login`"));
    }
    Ok(Some(key))
}

fn nobody(args: &ClientArgs) -> Failure {
    let (place, option) = match &args.server {
        Some(server) => (format!(" to {}", shown(server)), format!(" --server {}", shown(server))),
        None => (String::new(), String::new()),
    };
    Failure::new(format!("nobody has signed in{place}")).hint(format!(
        "sign in with `towline login{option}`, give a key with --key or TOWLINE_KEY, or start a server here with `towline up`"
    ))
}

fn default_server() -> Result<Url, Failure> {
    parse_stored(DEFAULT_SERVER)
}

fn parse_stored(text: &str) -> Result<Url, Failure> {
    parse_server_url(text).map_err(|error| Failure::new(format!("the stored server URL {text:?} is damaged: {error}")))
}
