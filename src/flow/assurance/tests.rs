use std::time::Duration;

use super::*;

const PLAIN: Person = Person { has_second_factor: false, is_admin: false };
const ARMED: Person = Person { has_second_factor: true, is_admin: false };

fn policy(required: MfaRequired, required_for_admins: bool) -> MfaConfig {
    MfaConfig { required, required_for_admins, trust_browser: Duration::from_hours(24) }
}

#[test]
fn s59_one_table_says_what_a_sign_in_still_lacks() {
    use Demand::{Must, Nothing, Wish};
    use MfaRequired::{Always, Never, Optional};
    let admin = |person: Person| Person { is_admin: true, ..person };
    // The policy, for administrators too, who, what is asked, a trusted browser, what is missing.
    for (required, admins, person, demand, trusted, expected) in [
        (Optional, false, PLAIN, Nothing, false, Missing::Nothing),
        (Optional, false, PLAIN, Wish, false, Missing::Nothing),
        (Optional, false, PLAIN, Must, false, Missing::Enrolment),
        (Optional, false, ARMED, Nothing, false, Missing::SecondFactor),
        (Optional, false, ARMED, Nothing, true, Missing::Nothing),
        (Optional, false, ARMED, Wish, true, Missing::SecondFactor),
        (Optional, false, ARMED, Must, true, Missing::SecondFactor),
        (Optional, false, admin(PLAIN), Nothing, false, Missing::Nothing),
        (Optional, true, PLAIN, Nothing, false, Missing::Nothing),
        (Optional, true, admin(PLAIN), Nothing, false, Missing::Enrolment),
        (Optional, true, admin(ARMED), Nothing, true, Missing::SecondFactor),
        (Always, false, PLAIN, Nothing, true, Missing::Enrolment),
        (Always, false, ARMED, Nothing, false, Missing::SecondFactor),
        (Always, false, ARMED, Nothing, true, Missing::Nothing),
        (Never, false, PLAIN, Nothing, false, Missing::Nothing),
        (Never, false, ARMED, Nothing, false, Missing::Nothing),
        (Never, false, ARMED, Wish, false, Missing::Nothing),
        (Never, false, ARMED, Must, false, Missing::Unmeetable),
    ] {
        let policy = policy(required, admins);
        let found = missing(&policy, person, demand, false, trusted);
        assert_eq!(found, expected, "{required:?} {admins} {person:?} {demand:?} {trusted}");
        assert_eq!(missing(&policy, person, demand, true, trusted), Missing::Nothing);
    }
    assert!(may_go_without(&policy(Optional, false), ARMED) && !may_go_without(&policy(Always, false), ARMED));
    assert!(!may_go_without(&policy(Optional, true), admin(ARMED)));
}

#[test]
fn s59_one_table_says_what_goes_on_by_a_password_alone() {
    use MfaRequired::{Always, Never, Optional};
    let admin = |person: Person| Person { is_admin: true, ..person };
    // The policy, for administrators too, who, whether the client demands it, with trusted browsers and without.
    for (required, admins, person, client, trusting, not_trusting) in [
        (Optional, false, PLAIN, false, true, true),
        (Optional, false, ARMED, false, true, true),
        (Optional, false, ARMED, true, false, false),
        (Optional, true, PLAIN, false, true, true),
        (Optional, true, admin(PLAIN), false, false, false),
        (Optional, true, admin(ARMED), false, false, false),
        (Optional, false, admin(ARMED), false, true, true),
        (Always, false, PLAIN, false, false, false),
        (Always, false, ARMED, false, true, false),
        (Always, false, ARMED, true, false, false),
        (Always, true, admin(ARMED), false, false, false),
        (Never, false, PLAIN, false, true, true),
        (Never, false, PLAIN, true, false, false),
    ] {
        let policy = policy(required, admins);
        let without = MfaConfig { trust_browser: Duration::ZERO, ..policy.clone() };
        let said = format!("{required:?} {admins} {person:?} {client}");
        assert_eq!(suffices(&policy, client, true, Some(person)), trusting, "{said}");
        assert_eq!(suffices(&without, client, true, Some(person)), not_trusting, "{said}");
        assert!(suffices(&policy, client, false, Some(person)), "{said}: both factors");
    }
    assert!(!suffices(&policy(Always, false), false, true, None), "nobody is there");
}
