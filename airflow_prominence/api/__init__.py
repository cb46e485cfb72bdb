"""The job API: public routes for users and the client, internal ones for triggers and agents."""
