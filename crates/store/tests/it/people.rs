//! Teams, users, memberships, and the first start.

use towline_model::{Role, TeamId};
use towline_store::{Constraint, MembershipRow, Store, StoreError};

use crate::{
    fixtures::{add_team, at, team_row, user_row},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_user_is_found_by_any_spelling_of_the_address,
    an_address_is_taken_once,
    a_team_has_one_owner_and_a_user_one_role,
    a_membership_needs_its_team_and_user,
    memberships_are_listed,
    an_empty_database_is_claimed_once,
    a_claim_that_is_rolled_back_is_free_again,
    a_database_with_users_cannot_be_claimed,
);

async fn a_user_is_found_by_any_spelling_of_the_address(database: &Database) {
    let store = database.connect().await;
    let mut user = user_row("Jörg.ÄNDERS@Example.com");
    user.display_name = Some("Jörg".to_owned());
    let mut tx = store.write().await.unwrap();
    tx.insert_user(&user).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.read().await.unwrap();
    let found = tx.find_user_by_email_address("JÖRG.Änders@EXAMPLE.COM").await.unwrap().unwrap();
    assert_eq!(found.id, user.id);
    assert_eq!(found.email_address, "jörg.änders@example.com");
    assert_eq!(found.password_hash.expose(), user.password_hash.expose());
    assert_eq!(found.created_at, user.created_at);
    assert_eq!(tx.find_user(user.id).await.unwrap().unwrap().display_name, user.display_name);
    assert!(tx.find_user_by_email_address("nobody@example.com").await.unwrap().is_none());
    assert!(!format!("{found:?}").contains("argon2"));
}

async fn an_address_is_taken_once(database: &Database) {
    let store = database.connect().await;
    let add = |store: Store, number: usize| async move {
        let mut tx = store.write().await.unwrap();
        tx.insert_user(&user_row(if number.is_multiple_of(2) { "a@example.com" } else { "A@EXAMPLE.com" })).await?;
        tx.commit().await
    };
    let outcomes = at_once(20, |number| add(store.clone(), number)).await;
    let refused = |outcome: &&Result<(), StoreError>| {
        matches!(outcome, Err(StoreError::Conflict { constraint: Constraint::UserEmailAddress }))
    };
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(refused).count(), 19);
}

async fn a_team_has_one_owner_and_a_user_one_role(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let other = user_row("other@example.com");
    let mut tx = store.write().await.unwrap();
    tx.insert_user(&other).await.unwrap();
    tx.commit().await.unwrap();
    let add = async |user_id, role| {
        let mut tx = store.write().await.unwrap();
        tx.insert_membership(&MembershipRow { team_id: team.id, user_id, role }).await?;
        tx.commit().await
    };
    let second_owner = add(other.id, Role::Owner).await;
    assert!(
        matches!(second_owner, Err(StoreError::Conflict { constraint: Constraint::TeamOwner })),
        "{second_owner:?}"
    );
    add(other.id, Role::Viewer).await.unwrap();
    let twice = add(other.id, Role::Admin).await;
    assert!(matches!(twice, Err(StoreError::Conflict { constraint: Constraint::Membership })), "{twice:?}");
    let found = store.read().await.unwrap().find_membership(team.id, other.id).await.unwrap();
    assert_eq!(found.map(|membership| membership.role), Some(Role::Viewer));
}

async fn a_membership_needs_its_team_and_user(database: &Database) {
    let store = database.connect().await;
    let team = add_team(&store).await;
    let mut tx = store.write().await.unwrap();
    let orphan = MembershipRow { team_id: TeamId::generate(), user_id: team.owner, role: Role::Member };
    assert!(matches!(tx.insert_membership(&orphan).await, Err(StoreError::NotFound)));
}

async fn memberships_are_listed(database: &Database) {
    let store = database.connect().await;
    let (first, second) = (add_team(&store).await, add_team(&store).await);
    let before = store.revision().await.unwrap();
    let guest = MembershipRow { team_id: second.id, user_id: first.owner, role: Role::Member };
    let mut tx = store.write().await.unwrap();
    tx.insert_membership(&guest).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 1);
    let mut tx = store.read().await.unwrap();
    let own = MembershipRow { team_id: first.id, user_id: first.owner, role: Role::Owner };
    assert_eq!(tx.memberships_of_user(first.owner).await.unwrap(), [own, guest]);
    assert_eq!(tx.all_memberships().await.unwrap().len(), 3);
    assert_eq!(tx.find_membership(first.id, second.owner).await.unwrap(), None);
}

async fn an_empty_database_is_claimed_once(database: &Database) {
    let store = database.connect().await;
    let claim = |store: Store| async move {
        let mut tx = store.write().await.unwrap();
        let claimed = tx.claim_bootstrap(at(0)).await.unwrap();
        if claimed {
            tx.insert_user(&user_row("owner@example.com")).await.unwrap();
        }
        tx.commit().await.unwrap();
        claimed
    };
    let claims = at_once(20, |_| claim(store.clone())).await;
    assert_eq!(claims.into_iter().filter(|&claimed| claimed).count(), 1);
}

async fn a_claim_that_is_rolled_back_is_free_again(database: &Database) {
    let store = database.connect().await;
    let mut tx = store.write().await.unwrap();
    assert!(tx.claim_bootstrap(at(0)).await.unwrap());
    drop(tx);
    assert!(store.write().await.unwrap().claim_bootstrap(at(1)).await.unwrap());
}

async fn a_database_with_users_cannot_be_claimed(database: &Database) {
    let store = database.connect().await;
    add_team(&store).await;
    let mut tx = store.write().await.unwrap();
    assert!(!tx.claim_bootstrap(at(0)).await.unwrap());
    tx.insert_team(&team_row("still usable")).await.unwrap();
    tx.commit().await.unwrap();
}
