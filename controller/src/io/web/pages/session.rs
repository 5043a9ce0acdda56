//! Signing in, and pages that say what went wrong.
use maud::{Markup, html};

use super::layout::{Area, Frame, head, page};
use super::parts::{command, empty};

/// The form that asks for the token.
pub fn login_page(wrong: bool) -> Markup {
    page(
        Frame { area: Area::None, title: "Sign in", seq: 0 },
        html! {
            (head(&[], "Sign in", html! {}, html! { @if wrong { "That is not a token of this controller, or not any more. Try again." } @else { "Changing something needs a token of this controller." } }))
            section.card {
                div.body {
                    div.stack {
                        form.stack method="post" action="/login" {
                            label { "Token" input type="password" name="token" required autocomplete="current-password"; }
                            div { button.button.primary type="submit" { "Sign in" } }
                        }
                        p.note { "Whoever runs the controller makes tokens with `leeway token create`. The admin's own was printed when it started, and is kept in its data directory:" }
                        (command("cat data/admin.token"))
                    }
                }
            }
        },
    )
}

/// What went wrong, for a person.
pub fn problem_page(title: &str, detail: &str) -> Markup {
    page(
        Frame { area: Area::None, title, seq: 0 },
        html! {
            (head(&[], title, html! {}, html! { (detail) }))
            section.card { (empty("Where to go from here", "Go back, or start from the overview.", None)) div.pager { a.button href="/" { "Overview" } } }
        },
    )
}
