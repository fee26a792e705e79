"""Small trainable weights beside a frozen model."""
