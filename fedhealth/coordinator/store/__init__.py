"""What the coordinator knows of studies: who signed what, which sites approved, what each round rests on."""
