//! Teams and members: names, roles, and the end of a team.

use towline_model::{CredentialId, KeyHash, KeyKind, Role, TeamId, UserId};
use towline_store::{Constraint, CredentialRow, InvitationRow, MemberRow, MembershipRow, Store, StoreError};

use crate::{
    fixtures::{
        Team, add_agent, add_instance, add_service, add_team, at, credential_row, event_row, page, service_row,
        user_row,
    },
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    members_are_listed_changed_and_removed,
    a_users_teams_are_listed,
    of_many_that_hand_a_team_over_one_does,
    a_team_ends_in_two_steps_and_nothing_is_left,
    what_is_added_to_a_team_that_ends_goes_with_it,
    a_password_is_replaced_once,
);

async fn add_user(store: &Store, address: &str) -> UserId {
    let user = user_row(address);
    let mut tx = store.write().await.unwrap();
    tx.insert_user(&user).await.unwrap();
    tx.commit().await.unwrap();
    user.id
}

async fn add_member(store: &Store, team_id: TeamId, user_id: UserId, role: Role) {
    let mut tx = store.write().await.unwrap();
    tx.insert_membership(&MembershipRow { team_id, user_id, role }).await.unwrap();
    tx.commit().await.unwrap();
}

fn key(team: Team, kind: KeyKind, number: u8) -> CredentialRow {
    let key_hash = KeyHash::from_bytes([number; 32]);
    CredentialRow { id: CredentialId::generate(), key_hash, ..credential_row(team, kind) }
}

async fn members_are_listed_changed_and_removed(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let ada = add_user(&store, "ada@example.com").await;
    add_member(&store, team.id, ada, Role::Viewer).await;
    let device = CredentialRow { user_id: Some(ada), ..key(team, KeyKind::Device, 1) };
    let mut tx = store.write().await.unwrap();
    tx.insert_credential(&device).await.unwrap();
    tx.insert_credential(&key(team, KeyKind::Integration, 2)).await.unwrap();
    tx.commit().await.unwrap();
    let before = store.revision().await.unwrap();

    let mut tx = store.write().await.unwrap();
    let list = tx.list_members(team.id, page(2, 1)).await.unwrap();
    let member =
        MemberRow { user_id: ada, email_address: "ada@example.com".to_owned(), display_name: None, role: Role::Viewer };
    assert_eq!((list.items, list.total_count), (vec![member], 2));
    assert!(tx.set_role(team.id, ada, Role::Admin).await.unwrap());
    assert!(!tx.set_role(TeamId::generate(), ada, Role::Admin).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 1);

    let mut tx = store.write().await.unwrap();
    let second = tx.set_role(team.id, ada, Role::Owner).await;
    assert!(matches!(second, Err(StoreError::Conflict { constraint: Constraint::TeamOwner })), "{second:?}");
    drop(tx);

    let mut tx = store.write().await.unwrap();
    assert!(tx.delete_membership(team.id, ada).await.unwrap());
    assert!(!tx.delete_membership(team.id, ada).await.unwrap());
    tx.revoke_device_keys_of(team.id, ada, at(5)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 2);
    let active = store.read().await.unwrap().active_credentials(at(5)).await.unwrap();
    assert_eq!(active.iter().map(|row| row.kind).collect::<Vec<_>>(), [KeyKind::Integration]);
}

async fn a_users_teams_are_listed(database: &Database) {
    let store = database.connect().await;
    let (first, second) = (add_team(&store).await, add_team(&store).await);
    add_member(&store, second.id, first.owner, Role::Viewer).await;
    let mut tx = store.write().await.unwrap();
    assert!(tx.rename_team(second.id, "green").await.unwrap());
    assert!(!tx.rename_team(TeamId::generate(), "red").await.unwrap());
    let list = tx.list_teams_of_user(first.owner, page(1, 9)).await.unwrap();
    let names: Vec<_> = list.items.iter().map(|(team, role)| (team.id, team.name.as_str(), *role)).collect();
    assert_eq!(names, [(first.id, "blue", Role::Owner), (second.id, "green", Role::Viewer)]);
    let list = tx.list_teams_of_user(first.owner, page(2, 1)).await.unwrap();
    assert_eq!((list.items.len(), list.items[0].0.id, list.total_count), (1, second.id, 2));
}

/// Each looks who owns the team and hands it to somebody else, under the team's lock.
async fn of_many_that_hand_a_team_over_one_does(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut others = Vec::new();
    for number in 0..8 {
        let user = add_user(&store, &format!("{number}@example.com")).await;
        add_member(&store, team.id, user, Role::Member).await;
        others.push(user);
    }
    let outcomes = at_once(8, |number| {
        let (store, to) = (store.clone(), others[number]);
        async move {
            let mut tx = store.write().await.unwrap();
            assert!(tx.lock_team(team.id).await.unwrap());
            if tx.find_membership(team.id, team.owner).await.unwrap().unwrap().role != Role::Owner {
                return false;
            }
            tx.set_role(team.id, team.owner, Role::Admin).await.unwrap();
            tx.set_role(team.id, to, Role::Owner).await.unwrap();
            tx.commit().await.unwrap();
            true
        }
    })
    .await;
    assert_eq!(outcomes.into_iter().filter(|&done| done).count(), 1);
    let roles = store.read().await.unwrap().all_memberships().await.unwrap();
    assert_eq!(roles.iter().filter(|row| row.role == Role::Owner).count(), 1);
}

/// A team with one of everything.
async fn fill(store: &Store) -> Team {
    let team = add_team(store).await;
    let number = team.id.as_uuid().as_bytes()[15];
    let service = add_service(store, team.id, "hello").await;
    let agent = add_agent(store, team.id, "box").await;
    add_instance(store, &service, Some(agent.id)).await;
    let mut tx = store.write().await.unwrap();
    tx.append_event(&event_row(&service, 1, "it happened")).await.unwrap();
    tx.insert_credential(&key(team, KeyKind::Integration, number)).await.unwrap();
    tx.insert_credential(&key(team, KeyKind::Agent, number.wrapping_add(1))).await.unwrap();
    let invitation = InvitationRow {
        id: towline_model::InvitationId::generate(),
        team_id: team.id,
        email_address: "new@example.com".to_owned(),
        role: Role::Member,
        token_hash: [number; 32],
        invited_by: team.owner,
        created_at: at(0),
        expires_at: at(100),
    };
    tx.insert_invitation(&invitation).await.unwrap();
    tx.commit().await.unwrap();
    team
}

async fn a_team_ends_in_two_steps_and_nothing_is_left(database: &Database) {
    let store = database.connect().await;
    let team = fill(&store).await;
    let other = add_team(&store).await;
    add_service(&store, other.id, "hello").await;
    let before = store.revision().await.unwrap();

    let mut tx = store.write().await.unwrap();
    assert!(tx.begin_team_end(team.id, at(7)).await.unwrap());
    assert!(!tx.begin_team_end(team.id, at(8)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 1);
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_team(team.id).await.unwrap(), None);
    assert!(!tx.lock_team(team.id).await.unwrap() && !tx.rename_team(team.id, "x").await.unwrap());
    assert_eq!(tx.all_services().await.unwrap().len(), 1);
    assert_eq!(tx.all_instances().await.unwrap(), []);
    assert_eq!(tx.memberships_of_user(team.owner).await.unwrap(), []);
    let kinds: Vec<_> = tx.active_credentials(at(7)).await.unwrap().iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [KeyKind::Agent], "its agents have to hear of it");
    assert_eq!(tx.all_agents().await.unwrap().len(), 1);
    let ending = tx.ending_teams().await.unwrap();
    assert_eq!(ending.iter().map(|team| (team.id, team.deleted_at)).collect::<Vec<_>>(), [(team.id, at(7))]);

    tx.end_team(team.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 2);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.ending_teams().await.unwrap(), []);
    assert_eq!(tx.all_agents().await.unwrap(), []);
    assert_eq!(tx.active_credentials(at(7)).await.unwrap(), []);
    assert!(tx.find_user(team.owner).await.unwrap().is_some(), "people stay");
    assert!(tx.find_team(other.id).await.unwrap().is_some(), "so do other teams");
}

async fn what_is_added_to_a_team_that_ends_goes_with_it(database: &Database) {
    let store = database.connect().await;
    let team = fill(&store).await;
    let mut tx = store.write().await.unwrap();
    tx.begin_team_end(team.id, at(7)).await.unwrap();
    tx.commit().await.unwrap();
    // Somebody who had been let in before.
    add_service(&store, team.id, "late").await;
    let mut tx = store.write().await.unwrap();
    tx.end_team(team.id).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.all_services().await.unwrap(), []);
    let later = tx.insert_service(&service_row(team.id, "later")).await;
    assert!(matches!(later, Err(StoreError::NotFound)), "{later:?}");
}

async fn a_password_is_replaced_once(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let hash = |text: &str| towline_model::Secret::new(text.to_owned());
    let mut tx = store.write().await.unwrap();
    let before = tx.find_user(team.owner).await.unwrap().unwrap().password_hash;
    assert!(tx.replace_password_hash(team.owner, &before, &hash("new")).await.unwrap());
    assert!(!tx.replace_password_hash(team.owner, &before, &hash("newer")).await.unwrap());
    assert!(tx.set_display_name(team.owner, Some("Ada")).await.unwrap());
    let user = tx.find_user(team.owner).await.unwrap().unwrap();
    assert_eq!((user.password_hash.expose().as_str(), user.display_name.as_deref()), ("new", Some("Ada")));
    assert!(tx.set_display_name(team.owner, None).await.unwrap());
    assert_eq!(tx.find_user(team.owner).await.unwrap().unwrap().display_name, None);
    assert!(!tx.set_display_name(UserId::generate(), None).await.unwrap());
}
