//! What kind of value a setting has, read from its option.

use std::any::TypeId;

use clap::Arg;

use super::secret_url::SecretUrl;

/// The option that names the file, which is no setting in it.
pub(super) const NOT_IN_FILE: &str = "config";

/// What kind of value a setting has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flag,
    Number,
    Text,
    /// Text that is shown masked.
    Secret,
}

impl Kind {
    pub(super) fn of(arg: &Arg) -> Self {
        let parsed = arg.get_value_parser().type_id();
        let is_any = |types: &[TypeId]| types.iter().any(|of| parsed == *of);
        if is_any(&[TypeId::of::<bool>()]) {
            Self::Flag
        } else if is_any(&[TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()]) {
            Self::Number
        } else if is_any(&[TypeId::of::<SecretUrl>()]) {
            Self::Secret
        } else {
            Self::Text
        }
    }

    /// As in "must be …".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number => "an integer",
            Self::Text | Self::Secret => "text in quotes",
        }
    }
}
