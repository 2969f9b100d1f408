//! What of the container's files a checkpoint would carry, for the doctor. Changes nothing.

use std::path::PathBuf;

use serde::Serialize;

use super::describe;
use crate::files::groups::{self, Group};
use crate::files::selection::{Scope, Selection};
use crate::files::survey::Survey;
use crate::files::used::{LookupError, Rules};
use crate::job::Common;

/// Most folders that the changed files are summed up in.
const GROUPS: usize = 8;

/// The container's files, as the next checkpoint would see them. Open files are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Changed files that travel.
    pub travel: Vec<Group>,
    /// Number of deleted names that travel.
    pub deleted: usize,
    /// Volumes, whose files stay.
    pub stay: Vec<PathBuf>,
    /// Why a checkpoint would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Looks at the container of this `init`.
pub fn look(common: &Common, files: Selection, init: i32) -> Result<Outlook, LookupError> {
    let (scope, limit) = (files.scope, files.limit);
    let ours = describe::our_folders(common, &common.runtime_dir);
    let rules = Rules::of_this_container(init, ours, files).map_err(LookupError::Proc)?.with_names(&common.runtime_dir);
    let mut outlook = Outlook { stay: rules.volumes(), ..Outlook::default() };
    if scope == Scope::Open {
        return Ok(outlook);
    }
    match Survey::look(&rules) {
        Ok(survey) => {
            outlook.travel = groups::groups(survey.files(), GROUPS);
            outlook.deleted = rules.deleted().len();
            outlook.refused = survey.check(limit).err().map(|error| error.to_string());
        }
        Err(error) => outlook.refused = Some(error.to_string()),
    }
    Ok(outlook)
}
