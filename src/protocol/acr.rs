//! How strongly a person signed in, in the words that relying parties see: `acr` (OpenID Connect Core section 2) and `amr`
//! (RFC 8176).

/// RFC 8176 section 2: a password.
pub const AMR_PASSWORD: &str = "pwd";
/// A one-time password.
pub const AMR_OTP: &str = "otp";
/// More than one factor.
pub const AMR_MFA: &str = "mfa";
/// A recovery code. RFC 8176 knows no value for it.
pub const AMR_RECOVERY_CODE: &str = "rc";

/// The authentication context classes, weakest first: what meets a class meets those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A password alone.
    Password,
    /// A password and a second factor.
    Mfa,
}

impl Class {
    pub const ALL: [Self; 2] = [Self::Password, Self::Mfa];

    /// Our own name of the class.
    #[must_use]
    pub const fn acr(self) -> &'static str {
        match self {
            Self::Password => "urn:countersign:acr:pwd",
            Self::Mfa => "urn:countersign:acr:mfa",
        }
    }
}

/// The classes by all their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcrNames {
    /// Other names of [`Class::Password`].
    pub password: Vec<String>,
    /// Other names of [`Class::Mfa`], such as `https://refeds.org/profile/mfa`.
    pub mfa: Vec<String>,
}

impl AcrNames {
    fn others(&self, class: Class) -> &[String] {
        match class {
            Class::Password => &self.password,
            Class::Mfa => &self.mfa,
        }
    }

    /// The class that a name stands for; `None` for one that is not ours to give.
    #[must_use]
    pub fn class_of(&self, name: &str) -> Option<Class> {
        Class::ALL
            .into_iter()
            .find(|class| class.acr() == name || self.others(*class).iter().any(|other| other == name))
    }

    /// Every name of these classes, weakest first, our own before the others.
    pub fn list(&self, classes: impl IntoIterator<Item = Class>) -> Vec<&str> {
        let names = |class| std::iter::once(Class::acr(class)).chain(self.others(class).iter().map(String::as_str));
        classes.into_iter().flat_map(names).collect()
    }

    /// The `acr` of a sign-in that reached `class`, by the name that the client asked for it by. An essential request gets
    /// one of its own values (Core section 5.5.1.1), the strongest that was reached; a wish is told what was reached, by
    /// its name for it where it has one.
    #[must_use]
    pub fn answer(&self, essential: Option<&[&str]>, wished: &[&str], class: Class) -> String {
        if let Some(asked) = essential {
            let reached = asked.iter().filter(|name| self.class_of(name).is_some_and(|asked| asked <= class));
            // The first of equals: the client's order is its preference.
            let strongest = reached.rev().max_by_key(|name| self.class_of(name));
            if let Some(name) = strongest {
                return (*name).to_owned();
            }
        }
        let same = wished.iter().find(|name| self.class_of(name) == Some(class));
        same.map_or(class.acr(), |name| name).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_name_that_it_asked_by() {
        let refeds = "https://refeds.org/profile/mfa";
        let names = AcrNames { password: vec!["bronze".into()], mfa: vec![refeds.into()] };
        let (pwd, mfa) = (Class::Password.acr(), Class::Mfa.acr());
        assert_eq!(names.list(Class::ALL), [pwd, "bronze", mfa, refeds]);
        assert_eq!(names.class_of("gold"), None);
        // Essential values, wishes, the class reached, the answer.
        for (essential, wished, class, answer) in [
            (None, &[][..], Class::Password, pwd),
            (None, &[refeds][..], Class::Mfa, refeds),
            (None, &[refeds][..], Class::Password, pwd),
            (None, &["gold"][..], Class::Mfa, mfa),
            (None, &["bronze"][..], Class::Mfa, mfa),
            (Some(&["bronze"][..]), &[][..], Class::Mfa, "bronze"),
            (Some(&["bronze", refeds][..]), &[][..], Class::Mfa, refeds),
            (Some(&[pwd, "bronze"][..]), &[][..], Class::Password, pwd),
            (Some(&["gold", "bronze"][..]), &[][..], Class::Password, "bronze"),
        ] {
            assert_eq!(names.answer(essential, wished, class), answer, "{essential:?} {wished:?} {class:?}");
        }
    }
}
