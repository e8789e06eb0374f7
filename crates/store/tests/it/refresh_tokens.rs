//! Rotation of refresh tokens, and what happens when one comes back.

use towline_model::{SignInId, UserId};
use towline_store::{Constraint, RefreshTokenRow, RefreshTokenUse, Store, StoreError};
use uuid::Uuid;

use crate::{
    fixtures::{add_team, at},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    a_token_is_used_once,
    a_token_that_comes_back_kills_its_family,
    of_twenty_uses_at_once_one_is_fresh,
    a_successor_that_is_just_being_made_does_not_escape,
    an_expired_or_unknown_token_is_told_apart,
    signing_out_revokes_the_family,
    all_sign_ins_but_one_are_revoked,
    old_families_are_forgotten,
    a_token_exists_once_and_belongs_to_a_user,
);

fn token(user_id: UserId, family_id: SignInId, number: u8) -> RefreshTokenRow {
    RefreshTokenRow {
        id: Uuid::now_v7(),
        family_id,
        user_id,
        token_hash: [number; 32],
        created_at: at(0),
        expires_at: at(1000),
        used_at: None,
        revoked_at: None,
    }
}

async fn add(store: &Store, token: &RefreshTokenRow) {
    let mut tx = store.write().await.unwrap();
    tx.insert_refresh_token(token).await.unwrap();
    tx.commit().await.unwrap();
}

async fn present(store: &Store, number: u8, seconds: u64) -> RefreshTokenUse {
    let mut tx = store.write().await.unwrap();
    let outcome = tx.use_refresh_token([number; 32], at(seconds)).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

async fn a_token_is_used_once(database: &Database) {
    let store = database.connect().await;
    let first = token(add_team(&store).await.owner, SignInId::generate(), 1);
    add(&store, &first).await;
    let used = RefreshTokenRow { used_at: Some(at(5)), ..first.clone() };
    assert_eq!(present(&store, 1, 5).await, RefreshTokenUse::Fresh(used.clone()));
    let reused = RefreshTokenRow { revoked_at: Some(at(6)), ..used };
    assert_eq!(present(&store, 1, 6).await, RefreshTokenUse::Reused(reused.clone()));
    assert_eq!(present(&store, 1, 7).await, RefreshTokenUse::Reused(reused), "the family is revoked once");
}

async fn a_token_that_comes_back_kills_its_family(database: &Database) {
    let store = database.connect().await;
    let (user, family) = (add_team(&store).await.owner, SignInId::generate());
    let other_family = token(user, SignInId::generate(), 9);
    add(&store, &token(user, family, 1)).await;
    add(&store, &other_family).await;
    for number in 1..4 {
        assert!(matches!(present(&store, number, 5).await, RefreshTokenUse::Fresh(_)));
        add(&store, &token(user, family, number + 1)).await;
    }
    assert!(matches!(present(&store, 2, 6).await, RefreshTokenUse::Reused(_)));
    assert_eq!(present(&store, 4, 7).await, RefreshTokenUse::Revoked, "the youngest dies with the family");
    assert!(matches!(present(&store, 9, 8).await, RefreshTokenUse::Fresh(_)), "another sign-in lives");
}

async fn of_twenty_uses_at_once_one_is_fresh(database: &Database) {
    let store = database.connect().await;
    add(&store, &token(add_team(&store).await.owner, SignInId::generate(), 1)).await;
    let outcomes = at_once(20, |_| {
        let store = store.clone();
        async move { present(&store, 1, 5).await }
    })
    .await;
    let fresh = outcomes.iter().filter(|outcome| matches!(outcome, RefreshTokenUse::Fresh(_))).count();
    let reused = outcomes.iter().filter(|outcome| matches!(outcome, RefreshTokenUse::Reused(_))).count();
    assert_eq!((fresh, reused), (1, 19));
}

/// While one transaction has used token 2 and makes its successor, another presents token 1 again. Whoever comes first,
/// the successor must not outlive the family.
async fn a_successor_that_is_just_being_made_does_not_escape(database: &Database) {
    let store = database.connect().await;
    let (user, family) = (add_team(&store).await.owner, SignInId::generate());
    add(&store, &token(user, family, 1)).await;
    present(&store, 1, 5).await;
    add(&store, &token(user, family, 2)).await;

    let mut rotation = store.write().await.unwrap();
    assert!(matches!(rotation.use_refresh_token([2; 32], at(6)).await.unwrap(), RefreshTokenUse::Fresh(_)));
    let mut thief = tokio::task::JoinSet::new();
    thief.spawn({
        let store = store.clone();
        async move { present(&store, 1, 7).await }
    });
    rotation.insert_refresh_token(&token(user, family, 3)).await.unwrap();
    rotation.commit().await.unwrap();
    assert!(matches!(thief.join_next().await.unwrap().unwrap(), RefreshTokenUse::Reused(_)));
    assert_eq!(present(&store, 3, 8).await, RefreshTokenUse::Revoked);
}

async fn an_expired_or_unknown_token_is_told_apart(database: &Database) {
    let store = database.connect().await;
    add(&store, &token(add_team(&store).await.owner, SignInId::generate(), 1)).await;
    assert_eq!(present(&store, 7, 0).await, RefreshTokenUse::Unknown);
    assert_eq!(present(&store, 1, 1000).await, RefreshTokenUse::Expired);
    assert!(matches!(present(&store, 1, 999).await, RefreshTokenUse::Fresh(_)), "the attempt used nothing up");
}

async fn signing_out_revokes_the_family(database: &Database) {
    let store = database.connect().await;
    let user = add_team(&store).await.owner;
    let first = SignInId::generate();
    add(&store, &token(user, first, 1)).await;
    for number in 2..4 {
        add(&store, &token(user, SignInId::generate(), number)).await;
    }
    let before = store.revision().await.unwrap();
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.revoke_refresh_token([1; 32], at(5)).await.unwrap(), Some(user));
    assert_eq!(tx.revoke_refresh_token([1; 32], at(6)).await.unwrap(), None);
    assert_eq!(tx.revoke_refresh_token([7; 32], at(6)).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before + 1, "gateways are to hear of it");
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.sign_ins_revoked_since(at(5)).await.unwrap(), [first]);
    assert_eq!(tx.sign_ins_revoked_since(at(6)).await.unwrap(), []);
    drop(tx);
    assert_eq!(present(&store, 1, 7).await, RefreshTokenUse::Revoked);
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.revoke_refresh_families_of(user, at(8)).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert_eq!(present(&store, 3, 9).await, RefreshTokenUse::Revoked);
}

async fn old_families_are_forgotten(database: &Database) {
    let store = database.connect().await;
    let (user, family) = (add_team(&store).await.owner, SignInId::generate());
    add(&store, &token(user, family, 1)).await;
    add(&store, &RefreshTokenRow { expires_at: at(2000), ..token(user, family, 2) }).await;
    add(&store, &token(user, SignInId::generate(), 3)).await;
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.prune_refresh_tokens(at(1001)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(present(&store, 3, 0).await, RefreshTokenUse::Unknown);
    assert!(matches!(present(&store, 1, 0).await, RefreshTokenUse::Fresh(_)), "its family has a younger one");
}

async fn a_token_exists_once_and_belongs_to_a_user(database: &Database) {
    let store = database.connect().await;
    let user = add_team(&store).await.owner;
    add(&store, &token(user, SignInId::generate(), 1)).await;
    let mut tx = store.write().await.unwrap();
    let twice = tx.insert_refresh_token(&token(user, SignInId::generate(), 1)).await;
    assert!(matches!(twice, Err(StoreError::Conflict { constraint: Constraint::RefreshTokenHash })), "{twice:?}");
    drop(tx);
    let mut tx = store.write().await.unwrap();
    let orphan = tx.insert_refresh_token(&token(UserId::generate(), SignInId::generate(), 2)).await;
    assert!(matches!(orphan, Err(StoreError::NotFound)), "{orphan:?}");
}

async fn all_sign_ins_but_one_are_revoked(database: &Database) {
    let store = database.connect().await;
    let (user, other) = (add_team(&store).await.owner, add_team(&store).await.owner);
    for (user, number) in [(user, 1), (user, 2), (user, 3), (other, 4)] {
        add(&store, &token(user, SignInId::generate(), number)).await;
    }
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.revoke_other_refresh_families_of(user, [2; 32], at(1)).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert_eq!(present(&store, 1, 2).await, RefreshTokenUse::Revoked);
    assert_eq!(present(&store, 3, 2).await, RefreshTokenUse::Revoked);
    assert!(matches!(present(&store, 2, 2).await, RefreshTokenUse::Fresh(_)));
    assert!(matches!(present(&store, 4, 2).await, RefreshTokenUse::Fresh(_)));
    // A token of somebody else keeps nothing.
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.revoke_other_refresh_families_of(user, [4; 32], at(3)).await.unwrap(), 1);
}
