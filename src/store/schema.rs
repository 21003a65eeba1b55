//! The tables as diesel sees them; a test compares them with what the migrations make.

use diesel::{allow_tables_to_appear_in_same_query, table};

table! {
    counters (name) {
        name -> Text,
        value -> BigInt,
    }
}

table! {
    users (user_id) {
        user_id -> Text,
        normal_name -> Text,
        username -> Text,
        email -> Nullable<Text>,
        normal_email -> Nullable<Text>,
        email_verified -> Bool,
        password_hash -> Nullable<Text>,
        is_admin -> Bool,
        claims -> Text,
        disabled_at -> Nullable<BigInt>,
        created_at -> BigInt,
        updated_at -> BigInt,
        has_second_factor -> Bool,
    }
}

table! {
    clients (client_id) {
        client_id -> Text,
        metadata -> Text,
        secret_digest -> Nullable<Binary>,
        previous_secret_digest -> Nullable<Binary>,
        previous_secret_until -> Nullable<BigInt>,
        created_at -> BigInt,
        logout_destination -> Nullable<Text>,
    }
}

table! {
    resources (identifier) {
        identifier -> Text,
        name -> Nullable<Text>,
        scope -> Text,
        access_token_lifetime -> Nullable<BigInt>,
        access_token_signing_alg -> Nullable<Text>,
        resource_server -> Nullable<Text>,
        created_at -> BigInt,
    }
}

table! {
    signing_keys (key_id) {
        key_id -> Text,
        algorithm -> Text,
        public_jwk -> Text,
        sealed_private -> Binary,
        created_at -> BigInt,
        active_at -> BigInt,
        expires_at -> Nullable<BigInt>,
    }
}

table! {
    sessions (session_id) {
        session_id -> Text,
        cookie_digest -> Binary,
        user_id -> Text,
        auth_time -> BigInt,
        acr -> Text,
        amr -> Text,
        created_at -> BigInt,
        last_seen_at -> BigInt,
        expires_at -> BigInt,
        ended_at -> Nullable<BigInt>,
        created_address -> Text,
        last_address -> Text,
        user_agent -> Text,
        proven_at -> BigInt,
        is_kept -> Bool,
        auth_address -> Text,
    }
}

table! {
    totp_devices (device_id) {
        device_id -> Text,
        user_id -> Text,
        name -> Text,
        sealed_secret -> Binary,
        last_step -> BigInt,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
    }
}

table! {
    totp_enrolments (binding_digest) {
        binding_digest -> Binary,
        user_id -> Text,
        sealed_secret -> Binary,
        expires_at -> BigInt,
    }
}

table! {
    recovery_codes (code_digest) {
        code_digest -> Binary,
        user_id -> Text,
        created_at -> BigInt,
        used_at -> Nullable<BigInt>,
    }
}

table! {
    trusted_browsers (token_digest) {
        token_digest -> Binary,
        browser_id -> Text,
        user_id -> Text,
        network -> Text,
        created_at -> BigInt,
        expires_at -> BigInt,
        user_agent -> Text,
    }
}

table! {
    sign_outs (sign_out_digest) {
        sign_out_digest -> Binary,
        browser_digest -> Binary,
        session_id -> Text,
        client_id -> Nullable<Text>,
        back -> Nullable<Text>,
        created_at -> BigInt,
        expires_at -> BigInt,
    }
}

table! {
    flows (flow_digest) {
        flow_digest -> Binary,
        browser_digest -> Binary,
        destination -> Text,
        progress -> Text,
        created_at -> BigInt,
        expires_at -> BigInt,
    }
}

table! {
    consents (user_id, client_id) {
        user_id -> Text,
        client_id -> Text,
        scope -> Text,
        resources -> Text,
        claims -> Text,
        updated_at -> BigInt,
        created_at -> BigInt,
    }
}

table! {
    grants (grant_id) {
        grant_id -> Text,
        handle_digest -> Binary,
        client_id -> Text,
        user_id -> Text,
        session_id -> Text,
        scope -> Text,
        is_offline -> Bool,
        details -> Text,
        auth_time -> BigInt,
        acr -> Text,
        amr -> Text,
        created_at -> BigInt,
        code_digest -> Binary,
        code_binding -> Binary,
        code_expires_at -> BigInt,
        code_consumed_at -> Nullable<BigInt>,
        refresh_digest -> Nullable<Binary>,
        previous_refresh_digest -> Nullable<Binary>,
        rotated_at -> Nullable<BigInt>,
        refresh_expires_at -> Nullable<BigInt>,
        expires_at -> BigInt,
        revoked_at -> Nullable<BigInt>,
        network -> Nullable<Text>,
    }
}

table! {
    revocations (sequence) {
        sequence -> BigInt,
        kind -> Text,
        target -> Text,
        not_before -> BigInt,
        reason -> Text,
        recorded_at -> BigInt,
        expires_at -> BigInt,
        actor -> Text,
    }
}

table! {
    outbox (outbox_id) {
        outbox_id -> Text,
        kind -> Text,
        destination -> Text,
        subject -> Text,
        session_id -> Nullable<Text>,
        payload -> Binary,
        revocation -> Nullable<BigInt>,
        attempts -> BigInt,
        next_at -> BigInt,
        leased_by -> Nullable<Text>,
        last_error -> Nullable<Text>,
        created_at -> BigInt,
        expires_at -> BigInt,
        delivered_at -> Nullable<BigInt>,
        given_up_at -> Nullable<BigInt>,
    }
}

table! {
    session_clients (session_id, client_id) {
        session_id -> Text,
        client_id -> Text,
    }
}

table! {
    assertion_ids (assertion_digest) {
        assertion_digest -> Binary,
        expires_at -> BigInt,
    }
}

table! {
    links (link_digest) {
        link_digest -> Binary,
        kind -> Text,
        user_id -> Nullable<Text>,
        sealed -> Nullable<Binary>,
        expires_at -> BigInt,
    }
}

table! {
    leases (name) {
        name -> Text,
        holder -> Text,
        expires_at -> BigInt,
    }
}

table! {
    throttles (bucket) {
        bucket -> Text,
        failures -> BigInt,
        retry_at -> BigInt,
        expires_at -> BigInt,
    }
}

table! {
    activity (activity_id) {
        activity_id -> Text,
        user_id -> Text,
        at -> BigInt,
        kind -> Text,
        network -> Text,
        user_agent -> Text,
        detail -> Text,
    }
}

allow_tables_to_appear_in_same_query!(users, clients, sessions, grants, consents, revocations, session_clients, links);
