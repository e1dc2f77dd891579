//! stub
use crate::bindings::SqliteSource;
use crate::context::StepContext;
use crate::error::Result;
use crate::manifest::SourceManifest;
use crate::sources::*;
/// stub
pub struct SqliteDriver {
    source: String,
    binding: SqliteSource,
}
impl SqliteDriver {
    /// stub
    pub fn new(source: &str, binding: SqliteSource) -> Self {
        Self { source: source.to_owned(), binding }
    }
}
#[allow(unused_variables)]
impl SourceDriver for SqliteDriver {
    fn check(&self, cx: &StepContext) -> Result<()> {
        let _ = (&self.source, &self.binding);
        todo!()
    }
    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped> {
        todo!()
    }
    fn stage(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        id: &str,
        target: &Target,
        options: &StageOptions,
    ) -> Result<Member> {
        todo!()
    }
    fn verify(
        &self,
        cx: &StepContext,
        member: &Member,
        source: &SourceManifest,
        questions: &[Question],
    ) -> Result<Verified> {
        todo!()
    }
    fn query(&self, cx: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>> {
        todo!()
    }
    fn execute(&self, cx: &StepContext, member: &Member, statements: &[String]) -> Result<()> {
        todo!()
    }
    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()> {
        todo!()
    }
    fn live_identity(&self, cx: &StepContext) -> Result<Option<Identity>> {
        todo!()
    }
    fn member_identity(&self, cx: &StepContext, member: &Member) -> Result<Identity> {
        todo!()
    }
    fn preflight(&self, cx: &StepContext, member: &Member) -> Result<Vec<crate::Finding>> {
        todo!()
    }
    fn plan_swap(&self, cx: &StepContext, member: &Member) -> Result<Swap> {
        todo!()
    }
    fn promote(&self, cx: &StepContext, member: &Member, swap: &Swap) -> Result<()> {
        todo!()
    }
    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        todo!()
    }
    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        todo!()
    }
}
