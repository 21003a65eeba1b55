//! How strongly a person signed in, in the words that relying parties see: `acr` (OpenID Connect Core section 2) and `amr`
//! (RFC 8176).

/// A password alone.
pub const ACR_PASSWORD: &str = "urn:countersign:acr:pwd";
/// A password and a second factor.
pub const ACR_MFA: &str = "urn:countersign:acr:mfa";

/// RFC 8176 section 2: a password.
pub const AMR_PASSWORD: &str = "pwd";
/// A one-time password.
pub const AMR_OTP: &str = "otp";
/// More than one factor.
pub const AMR_MFA: &str = "mfa";
/// A recovery code. RFC 8176 knows no value for it.
pub const AMR_RECOVERY_CODE: &str = "rc";
