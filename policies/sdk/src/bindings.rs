//! The contract as Rust: generated from `wit/`.
//!
//! One world holds every interface, so that all policies share one set of types. What a component really imports is what its code
//! calls: unused functions and interfaces are dropped when it is made, and packing compares the rest with the declared world.

// The items' texts, where they have one, are the contract's.
#![allow(missing_docs)]

wit_bindgen::generate!({
    inline: r#"
        package lifeboat:policy;

        world everything {
            import lifeboat:recovery/catalog@0.1.0;
            import lifeboat:recovery/clock@0.1.0;
            import lifeboat:recovery/confirm@0.1.0;
            import lifeboat:recovery/delete@0.1.0;
            import lifeboat:recovery/dump@0.1.0;
            import lifeboat:recovery/http-check@0.1.0;
            import lifeboat:recovery/promote@0.1.0;
            import lifeboat:recovery/query@0.1.0;
            import lifeboat:recovery/report@0.1.0;
            import lifeboat:recovery/restore@0.1.0;
            import lifeboat:recovery/schedule@0.1.0;
            import lifeboat:recovery/scratch@0.1.0;
            import lifeboat:recovery/service@0.1.0;
            import lifeboat:recovery/upload@0.1.0;
            export run: func(parameters: string) -> result<_, string>;
        }
    "#,
    path: "../../wit",
    world: "lifeboat:policy/everything",
    generate_all,
    pub_export_macro: true,
    default_bindings_module: "lifeboat_policy::bindings",
});
