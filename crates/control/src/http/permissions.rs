//! The table of roles and actions as a page of the documentation, made from the code.

use std::fmt::Write as _;

use towline_model::{Action, CredentialId, Principal, Role, Scope, SignInId, TeamId, UserId};

use super::access::in_words;

const HEAD: &str = "\
# Permissions

Who may do what in a team. This page is made from the code by `cargo xtask openapi`; do not edit it. Which action an endpoint needs is in \
[openapi.json](../openapi.json), as `x-permission`.

A device's key (`dk-`) acts with its user's role, but does nothing that decides who gets in. An integration key (`sk-`) does what its scopes name. An \
agent's key (`ak-`) only connects agents.

| action | viewer | member | admin | owner | device's key | integration key |
|---|---|---|---|---|---|---|
";

const TAIL: &str = "
Beyond the table:

- A team has one owner. The role changes hands only by a transfer, which only the owner can make; the former owner becomes an admin.
- An admin changes and removes everybody but the owner, and grants every role but the owner's.
- The owner cannot leave: hand the team over, or delete it.
- Anybody who is signed in may make a further team, and owns it.
";

/// The page.
#[must_use]
pub fn permissions_markdown() -> String {
    let mut page = HEAD.to_owned();
    for action in Action::ALL {
        let roles = Role::ALL.map(|role| tick(user(role).may(action))).join(" | ");
        let scope = Scope::ALL.into_iter().find(|&scope| key(scope).may(action));
        let scope = scope.map_or("", Scope::as_str);
        let device = tick(device().may(action));
        writeln!(page, "| {} | {roles} | {device} | {scope} |", in_words(action))
            .expect("writing to a String cannot fail");
    }
    page + TAIL
}

const fn tick(may: bool) -> &'static str {
    if may { "yes" } else { "" }
}

fn ids() -> (UserId, TeamId, CredentialId) {
    let nil = uuid::Uuid::nil();
    (UserId::from_uuid(nil), TeamId::from_uuid(nil), CredentialId::from_uuid(nil))
}

fn user(role: Role) -> Principal {
    let (user_id, team_id, _) = ids();
    Principal::User { user_id, team_id, role, sign_in: SignInId::from_uuid(uuid::Uuid::nil()) }
}

fn device() -> Principal {
    let (user_id, team_id, credential_id) = ids();
    Principal::Device { credential_id, user_id, team_id, role: Role::Owner }
}

fn key(scope: Scope) -> Principal {
    let (_, team_id, credential_id) = ids();
    Principal::Integration { credential_id, team_id, scopes: [scope].into(), services: None }
}
